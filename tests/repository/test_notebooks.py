"""The committed notebooks are what their sources give, keep the shape of the course, and install or fetch nothing."""

import ast
import json
import re
import statistics

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from tools import address
from tools.notebooks import NOTEBOOKS, differences

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
LONGEST, MEDIAN, WORDS, CELLS, KILOBYTES = 25, 8, (1100, 2600), (20, 105), 100
TASK = re.compile(
    r"^### Task (\d): (.+)\n\n\*(Predict, then run|Break it and see|Write it) · (\d+) minutes · (easy|medium|hard)\*$",
    re.M,
)


def cells(path, kind="code"):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def code_of(cell):
    """A cell's Python, which IPython's own lines become as well."""
    return ast.parse(TransformerManager().transform_cell(cell.source))


def calls(path, name):
    for cell in cells(path):
        for node in ast.walk(code_of(cell)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == name:
                yield node


def test_notebooks_are_what_their_sources_give():
    assert differences() == [], "run `make notebooks`"


def test_the_course_is_complete():
    assert [path.stem[:2] for path in PATHS] == [f"{number:02d}" for number in range(9)]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
class TestShape:
    def test_no_outputs_are_stored(self, path):
        assert all(not cell.outputs and cell.execution_count is None for cell in cells(path))
        assert len(path.read_bytes()) < KILOBYTES * 1000

    def test_sizes(self, path):
        lines = [len(cell.source.splitlines()) for cell in cells(path)]
        read = [cell.source for cell in cells(path, "markdown") if not TASK.search(cell.source)]  # tasks are done
        words = sum(len(text.split()) for text in read)
        assert max(lines) <= LONGEST and statistics.median(lines) <= MEDIAN
        assert WORDS[0] <= words <= WORDS[1]
        assert CELLS[0] <= len(lines) + len(cells(path, "markdown")) <= CELLS[1]

    def test_the_first_code_cell_is_the_same_everywhere_and_short(self, path):
        first = cells(path)[0].source
        assert first == address.read().bootstrap() and len(first.splitlines()) <= 8
        assert " -e" not in first

    def test_badges_open_this_notebook_at_its_own_tag(self, path):
        top, where = cells(path, "markdown")[0].source, address.read()
        assert f"/github/{where.slug}/blob/v{where.version}/notebooks/{path.name})" in top
        assert f"/gh/{where.slug}/v{where.version}?urlpath=lab%2Ftree%2Fnotebooks%2F{path.name})" in top

    def test_objectives_and_minutes_stand_on_top(self, path):
        top = cells(path, "markdown")[0].source
        assert top.startswith(f"# {path.stem[:2]} ") and "you can" in top and "minutes" in top

    def test_words_come_before_code(self, path):
        kinds = [cell.cell_type for cell in nbformat.read(path, as_version=4).cells]
        assert kinds[:2] == ["markdown", "markdown"] and kinds[-1] == "markdown"

    def test_every_figure_has_alternative_text(self, path):
        shown = list(calls(path, "show"))
        assert shown, "no figure"
        for call in shown:
            (alt,) = [keyword.value for keyword in call.keywords if keyword.arg == "alt"]
            assert not isinstance(alt, ast.Constant) or len(alt.value) > 30, "say what one sees"

    def test_no_figure_goes_around_show(self, path):
        assert not [ast.unparse(call) for name in ("savefig", "imsave") for call in calls(path, name)]
        assert not [call for call in calls(path, "show") if ast.unparse(call.func) == "plt.show"]

    def test_checks_and_exercises(self, path):
        asserted = [node for cell in cells(path) for node in ast.walk(code_of(cell)) if isinstance(node, ast.Assert)]
        assert len(asserted) >= 5
        tags = [tag for cell in cells(path) for tag in cell.metadata.get("tags", [])]
        assert 1 <= tags.count("exercise") == tags.count("check") == tags.count("solution")

    def test_tasks_have_minutes_a_difficulty_and_two_hints(self, path):
        every = nbformat.read(path, as_version=4).cells
        found = [(i, TASK.search(cell.source)) for i, cell in enumerate(every) if TASK.search(cell.source)]
        assert [int(match[1]) for _, match in found] == list(range(1, len(found) + 1)) and 4 <= len(found) <= 7
        assert len({match[3] for _, match in found}) >= 2, "more than one kind of task"
        for i, match in found:
            text, (gap, check, solution) = every[i].source, every[i + 1 : i + 4]
            hints = re.findall(r"<details><summary>Hint (\d)</summary>(.*?)</details>", text, re.DOTALL)
            assert [number for number, _ in hints] == ["1", "2"] and all(len(hint) > 30 for _, hint in hints)
            assert [c.metadata.get("tags") for c in (gap, check, solution)] == [["exercise"], ["check"], ["solution"]]
            assert f'with checking("Task {match[1]}"):' in check.source and "checks." in check.source
            assert "raise NotImplementedError" in gap.source or "= ...  # your answer" in gap.source
        assert len(found) == sum("exercise" in cell.metadata.get("tags", []) for cell in every)

    def test_nothing_is_installed_or_fetched(self, path):
        source = "\n".join(cell.source for cell in cells(path)[1:])
        assert not re.search(r"pip install|conda install|!wget|!curl|https?://|os\.kill|\.restart\(", source)

    def test_links_lead_to_files(self, path):
        text = "\n".join(cell.source for cell in cells(path, "markdown"))
        targets = [target for target in re.findall(r"\]\(([^)#\s]+)", text) if not re.match(r"\w+:", target)]
        assert not [target for target in targets if not (NOTEBOOKS / target).exists()]

    def test_pictures_are_in_the_notebook_for_colab_shows_no_others(self, path):
        text = "\n".join(cell.source for cell in cells(path, "markdown"))
        shown = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", re.sub(r"\[!\[Open in .*", "", text))
        assert len(shown) == (NOTEBOOKS / "src" / f"{path.stem}.py").read_text().count("](figures/")
        for alt, target in shown:
            assert target.startswith("data:image/png;base64,") and len(alt) > 30

    def test_no_personal_paths(self, path):
        text = json.dumps(nbformat.read(path, as_version=4))
        assert not re.search(r"/home/|/root/|/work/|C:\\\\Users", text)
