"""The doctor finds what is there, names what is not, and says what to do."""

import shutil
from types import SimpleNamespace

import pytest

from wsfp_helpers import profiles
from wsfp_helpers.tooling import doctor
from wsfp_helpers.tooling.doctor import GAP, GOOD, OPTION, Finding


@pytest.fixture(autouse=True)
def _empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WSFP_DATA", raising=False)


def find(name):
    (found,) = [finding for finding in doctor.examine() if finding.name == name]
    return found


def test_every_gap_and_option_has_a_cure():
    findings = doctor.examine()
    assert {finding.section for finding in findings} == {"software", "machine", "data", "weights"}
    assert all(finding.todo for finding in findings if finding.state != GOOD)
    assert not any(finding.todo for finding in findings if finding.state == GOOD)


def test_what_this_environment_has():
    assert find("numpy").state == GOOD
    assert find("SynthFaces-19").value == "synthfaces19.zip, 11.8 MB"
    assert find("FRL London").state == OPTION and "wsfp data get frl-london" in find("FRL London").todo
    assert not [finding for finding in doctor.examine() if finding.name.startswith("import ")]


def test_full_size_files_are_found_where_the_report_says(tmp_path, monkeypatch):
    missing = find("FLIP-B/16")
    assert missing.state == OPTION and str(tmp_path / "cache" / "weights" / "FLIP-base-16") in missing.todo
    (tmp_path / "mine" / "weights" / "FLIP-base-16").mkdir(parents=True)
    monkeypatch.setenv("WSFP_DATA", str(tmp_path / "mine"))
    assert find("FLIP-B/16").value == str(tmp_path / "mine" / "weights" / "FLIP-base-16")


def test_every_weight_of_the_paper_profile_is_looked_for():
    places = {weights.place for weights in doctor.WEIGHTS.values()}
    assert {profiles.DEIT, profiles.FLIP, profiles.RESNET38, profiles.GROUNDING_DINO, profiles.BERT} <= places
    assert "wsfp weights get resnet38" in find("ResNet38").todo


def test_a_truncated_and_a_missing_shipped_file_are_gaps(tmp_path, monkeypatch):
    whole = doctor.ASSETS / "trunk.safetensors"
    monkeypatch.setattr(doctor, "ASSETS", tmp_path)
    assert find("trunk").state == GAP and "is missing" in find("trunk").value
    shutil.copy(whole, tmp_path)
    assert find("trunk").state == GOOD
    with (tmp_path / "trunk.safetensors").open("r+b") as file:
        file.truncate(whole.stat().st_size // 2)
    assert find("trunk").state == GAP and "truncated" in find("trunk").value


def test_damaged_boxes_are_a_gap(tmp_path, monkeypatch):
    assert find("boxes of celeb/train").value == "boxes_synthfaces_train.jsonl, 686 pictures"
    (tmp_path / "cut.jsonl").write_bytes(doctor.SHIPPED_BOXES["celeb/val"].read_bytes()[:-5])
    monkeypatch.setitem(doctor.SHIPPED_BOXES, "celeb/train", tmp_path / "cut.jsonl")
    assert find("boxes of celeb/train").state == GAP and "is cut" in find("boxes of celeb/train").value


def test_named_folders_that_are_none_are_gaps(tmp_path, monkeypatch):
    assert not [finding for finding in doctor.examine() if finding.name in ("WSFP_DATA", "cache")]
    monkeypatch.setenv("WSFP_DATA", str(tmp_path / "none"))
    assert find("WSFP_DATA").state == GAP and str(tmp_path / "none") in find("WSFP_DATA").value
    (tmp_path / "file.txt").touch()
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "file.txt" / "deep"))
    assert find("cache").state == GAP and "file.txt" in find("cache").value


def test_a_machine_that_has_too_little(monkeypatch):
    names = ("python", "torch threads", "memory", "disk")
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(version_info=(3, 10, 1)))
    monkeypatch.setattr(doctor.torch, "get_num_threads", lambda: doctor.cpu_count() + 1)
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: SimpleNamespace(available=1e9, total=8e9))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=2e9))
    assert [find(name).state for name in names] == [GAP, OPTION, OPTION, OPTION]
    cures = ("PYTHON=python3.12", f"OMP_NUM_THREADS={doctor.cpu_count()}", "up to 2 GB", "up to 3 GB")
    assert all(cure in find(name).todo for name, cure in zip(names, cures, strict=True))
    assert find("memory").value == "1.0 of 8.0 GB free" and find("disk").value.startswith("2.0 GB free")


def test_a_damaged_archive_of_faces_is_a_gap(tmp_path, monkeypatch):
    (tmp_path / "synthfaces19.zip").write_bytes(doctor.PACK.read_bytes()[:-1000])
    monkeypatch.setattr(doctor, "PACK", tmp_path / "synthfaces19.zip")
    found = find("SynthFaces-19")
    assert found.state == GAP and "truncated" in found.value
    assert found.todo.endswith("git checkout wsfp_helpers/assets/synthfaces19.zip")


def test_a_broken_import_is_a_gap_with_its_message(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    found = find("import torchvision")
    assert found.state == GAP and found.value == "RuntimeError: operator torchvision::nms does not exist"


def test_every_package_that_the_course_needs_is_looked_for():
    names = {finding.name for finding in doctor.examine() if finding.section == "software"}
    assert {"torch", "torchvision", "timm", "dacite", "seaborn", "pooch"} <= names
    assert "pytest" not in names  # only for those who develop the course


def test_a_missing_package_is_a_gap(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda package: None)
    assert find("timm").state == GAP and "make setup" in find("timm").todo
    assert find("transformers").state == OPTION


def test_the_report_says_what_is_missing():
    findings = [
        Finding("data", "pictures", "12 found"),
        Finding("data", "maps", "none", GAP, "fetch them"),
        Finding("weights", "trunk", "none", OPTION, "copy it"),
    ]
    lines = doctor.report(findings).splitlines()
    assert lines[0] == "data:" and lines[1].split() == ["+", "pictures", "12", "found"]
    assert lines[3].strip() == "fetch them" and lines[-1] == "1 to mend (!): maps"
    assert doctor.as_dict(findings)["ok"] is False
    assert doctor.report(findings[:1]).splitlines()[-1].startswith("the course has all")
    assert doctor.as_dict(findings[::2])["ok"] is True
