"""What a result was made with: the revision, and whether it is one of this repository."""

import subprocess

import pytest

from wsfp_helpers.common import machine


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit, in which the module seems to lie; gives a function that runs git."""

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True, text=True)
        machine.revision.cache_clear()
        return done.stdout.strip()

    git("init", "-q")
    for name in ("machine.py", "docs/page.json", "card.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1\n")
    git("add", ".")
    git("commit", "-q", "-m", "Start")
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))
    yield git
    machine.revision.cache_clear()


def test_the_revision_marks_changed_code(repository, tmp_path):
    clean = machine.revision()
    assert clean == repository("rev-parse", "--short=12", "HEAD")
    (tmp_path / "machine.py").write_text("2\n")
    machine.revision.cache_clear()
    assert machine.revision() == f"{clean}-dirty"


def test_results_and_texts_are_no_code(repository, tmp_path):
    clean = machine.revision()
    (tmp_path / "docs/page.json").write_text("2\n")
    (tmp_path / "card.md").write_text("2\n")
    machine.revision.cache_clear()
    assert machine.revision() == clean


def test_only_commits_of_the_repository_are_known(repository):
    commit = repository("rev-parse", "HEAD")
    assert machine.knows_revision(commit) and machine.knows_revision(commit[:12])
    for name in (f"{commit[:12]}-dirty", "unknown", "0" * 12, ""):
        assert not machine.knows_revision(name)


def test_a_tree_is_no_commit(repository):
    assert not machine.knows_revision(repository("rev-parse", "HEAD^{tree}"))


def test_a_shallow_clone_does_not_know_its_history(repository, tmp_path, monkeypatch):
    first = repository("rev-parse", "HEAD")
    repository("commit", "-q", "--allow-empty", "-m", "Go on")
    repository("clone", "-q", "--depth=1", f"file://{tmp_path}", tmp_path / "clone")
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "clone" / "machine.py"))
    assert machine.knows_revision(first) and machine.knows_revision("0" * 12)
    assert not machine.knows_revision(f"{first[:12]}-dirty")


@pytest.mark.parametrize("lacks", ["git", "history"])
def test_without_git_or_its_folder_nothing_is_known(repository, tmp_path, monkeypatch, lacks):
    if lacks == "git":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    assert machine.revision() == "unknown"
    assert machine.knows_revision("0" * 12) and not machine.knows_revision("unknown")


def test_an_absent_package_has_no_version():
    assert machine.version("no-such-package") is None and machine.version("pytest") == pytest.__version__


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("sse avx512_bf16", True), ("amx_bf16 amx_tile", True), ("avx512f avx512_vnni", False), (None, False)],
)
def test_bfloat16_is_taken_only_where_the_processor_multiplies_it(monkeypatch, flags, expected):
    def read(self, **_):
        if flags is None:
            raise FileNotFoundError(self)
        return f"model name\t: X\nflags\t\t: fpu {flags}\n"

    monkeypatch.setattr(machine.Path, "read_text", read)
    assert machine.multiplies_bfloat16() is expected


@pytest.mark.parametrize(("rank", "found"), [(None, ["cuda:0", "cuda:1", "cuda:0"]), ("1", ["cuda:1"] * 3)])
def test_shares_take_turns_on_the_gpus_and_launched_processes_have_their_own(monkeypatch, rank, found):
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(machine.torch.cuda, "device_count", lambda: 2)
    if rank is None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
    else:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert [machine.device(share) for share in range(3)] == found
    assert machine.no_gpu() == ""


@pytest.mark.parametrize(("cuda", "words"), [(None, "was built without CUDA"), ("13.0", "made for CUDA 13.0, finds")])
def test_why_there_is_no_gpu(monkeypatch, cuda, words):
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine.torch.version, "cuda", cuda)
    assert machine.device(3) == "cpu" and words in machine.no_gpu()
