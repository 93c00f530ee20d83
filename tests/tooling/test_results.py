"""Results files: their shape, their pages, and that every page in the docs agrees with its file."""

import json
import re
import statistics

import numpy as np
import pytest

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.labels import CELEBAMASK, LAPA
from wsfp_helpers.score.confusion import Scores
from wsfp_helpers.score.intervals import bootstrap
from wsfp_helpers.tooling import results
from wsfp_helpers.tooling.results import (
    check_pages,
    group_rows,
    read_results,
    row,
    scored_rows,
    scores_row,
    write_results,
)


def three_seeds(scheme=CELEBAMASK):
    rng = np.random.default_rng(0)
    return [Scores(rng.integers(1, 50, (len(scheme), len(scheme))), scheme) for _ in range(3)]


def cells(page, name):
    line = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture
def traced(monkeypatch):
    """Whatever revision is running counts as a commit: these tests are run while one works, too."""
    monkeypatch.setattr(results, "knows_revision", lambda name: True)


def test_the_docs_agree_with_their_results_files():
    assert check_pages() == []


@pytest.mark.parametrize("revision", ["0123456789ab", "unknown", "bba083a53bea-dirty"])
@pytest.mark.promise("security", "a result of an unknown or `-dirty` revision", "a sentence that names it", "-")
def test_results_that_cannot_be_traced_are_reported(tmp_path, monkeypatch, revision):
    monkeypatch.setattr(results, "revision", lambda: revision)
    write_results("a", "wsfp x", [row("r", "mean_f1", "percent", [1.0])], tmp_path)
    (problem,) = check_pages(tmp_path)
    assert f"a.json was made at {revision}, which is no commit" in problem


def test_a_results_file_has_exactly_the_agreed_keys(tmp_path):
    path = write_results("table", "wsfp ablate table4", [scores_row("base", three_seeds())], tmp_path)
    content = json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(text))
    assert list(content) == ["command", "revision", "machine", "date", "rows"]
    assert list(content["rows"][0]) == ["name", "metric", "unit", "seeds", "per_class"]
    assert content["command"] == "wsfp ablate table4"
    assert "torch" in content["machine"] and "cores" in content["machine"] and "GB" in content["machine"]
    assert re.match(r"\d{4}-\d\d-\d\dT", content["date"])
    assert re.match(r"[0-9a-f]{12}|unknown", content["revision"])


def test_a_row_of_scores_has_one_value_per_seed():
    scores = three_seeds()
    made = scores_row("base", scores)
    assert made["metric"] == "mean_f1" and made["seeds"] == [each.mean_f1 for each in scores]
    assert list(made["per_class"]) == list(CELEBAMASK.components)
    assert made["per_class"]["nose"] == [each.f1[2] for each in scores]


def test_the_page_shows_mean_and_spread(tmp_path):
    scores = three_seeds(LAPA)
    rows = [scores_row("full", scores), row("step", "speedup", "times", [3.456]), row("x", "max_abs_diff", "", [2e-7])]
    write_results("some_table", "wsfp x", rows, tmp_path)
    page = (tmp_path / "some_table.md").read_text()
    means = [each.mean_f1 for each in scores]
    assert cells(page, "full") == [
        "full", "mean_f1", f"{statistics.mean(means):.2f} ± {statistics.stdev(means):.2f}", "percent", "3"
    ]  # fmt: skip
    assert cells(page, "step")[2] == "3.46" and cells(page, "x")[2] == "2.0e-07"
    hair = [each.f1[-1] for each in scores]
    assert cells(page, "hair")[1] == f"{statistics.mean(hair):.2f} ± {statistics.stdev(hair):.2f}"
    assert "wsfp x" in page and "absent" in page


def matrices_of_two_seeds(images=24):
    return np.random.default_rng(1).integers(0, 50, (2, images, 19, 19)) * (1 + 9 * np.eye(19, dtype=int))


def test_an_interval_is_two_rows_of_the_file_and_a_column_of_the_page(tmp_path):
    matrices = matrices_of_two_seeds()
    rows = [*scored_rows("full", matrices), row("other", "mean_f1", "percent", [1.0])]
    assert [r["metric"] for r in rows] == ["mean_f1", "mean_f1_low", "mean_f1_high", "mean_f1"]
    low, high = bootstrap(matrices).mean_f1
    assert (rows[1]["seeds"], rows[2]["seeds"]) == ([low], [high])
    assert rows[0]["seeds"] == [Scores(each.sum(0)).mean_f1 for each in matrices]
    assert low < np.mean(rows[0]["seeds"]) < high
    write_results("t", "wsfp x", rows, tmp_path)
    page = (tmp_path / "t.md").read_text()
    assert cells(page, "full")[3:] == [f"{low:.2f} to {high:.2f}", "percent", "2"]
    assert cells(page, "other")[3:] == ["", "percent", "1"]
    assert "[95 % low]" not in page and "bootstrap over images" in page
    widths = {line.count("|") for line in page.split("## By class")[0].splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_groups_have_their_size_and_an_interval_where_they_are_large_enough(tmp_path):
    matrices, gender = matrices_of_two_seeds(), ["f"] * 15 + ["m"] * 9
    rows = group_rows("weak", matrices, {"gender": gender, "age": ["young"] * 24})
    by_name = {r["name"]: r["seeds"] for r in rows}
    assert list(by_name) == [
        "weak, gender = f (n = 15)", "weak, gender = f (n = 15) [95 % low]", "weak, gender = f (n = 15) [95 % high]",
        "weak, gender = m (n = 9: too few to compare)",
        "weak, age = young (n = 24)", "weak, age = young (n = 24) [95 % low]", "weak, age = young (n = 24) [95 % high]",
    ]  # fmt: skip
    assert by_name["weak, gender = m (n = 9: too few to compare)"] == [
        Scores(each[15:].sum(0)).mean_f1 for each in matrices
    ]
    assert by_name["weak, gender = f (n = 15) [95 % low]"] == [bootstrap(matrices[:, :15]).mean_f1[0]]


def test_absent_classes_are_none_in_the_file_and_a_dash_on_the_page(tmp_path):
    matrix = np.zeros((19, 19), np.int64)
    matrix[1, 1] = matrix[2, 1] = 5
    write_results("t", "wsfp x", [scores_row("r", [Scores(matrix)])], tmp_path)
    assert read_results("t", tmp_path)["rows"][0]["per_class"]["hat"] == [None]
    page = (tmp_path / "t.md").read_text()
    assert cells(page, "hat")[1] == "–" and cells(page, "nose")[1] == "0.00"


def test_rows_without_some_classes_leave_their_cells_empty(tmp_path):
    rows = [row("a", "mean_f1", "percent", [1], {"skin": [1]}), row("b", "mean_f1", "percent", [2], {"nose": [2]})]
    write_results("t", "wsfp x", rows, tmp_path)
    page = (tmp_path / "t.md").read_text()
    assert cells(page, "skin")[1:] == ["1.00", ""] and cells(page, "nose")[1:] == ["", "2.00"]


def test_a_page_that_was_edited_or_lost_is_reported_and_can_be_written_again(tmp_path, traced):
    for name in ("a", "b", "c"):
        write_results(name, "wsfp x", [row("r", "mean_f1", "percent", [1.0])], tmp_path)
    assert check_pages(tmp_path) == []
    (tmp_path / "a.md").write_text((tmp_path / "a.md").read_text().replace("1.00", "9.00"))
    (tmp_path / "b.md").unlink()
    (tmp_path / "c.json").unlink()
    (tmp_path / "README.md").write_text("about")
    problems = check_pages(tmp_path)
    assert len(problems) == 3
    assert "a.md differs" in problems[0] and "b.json has no page" in problems[1] and "c.md has no" in problems[2]
    (tmp_path / "c.md").unlink()
    results.write_pages(tmp_path)
    assert check_pages(tmp_path) == []


def test_a_table_has_a_plot_of_its_numbers_with_alternative_text(tmp_path, traced):
    rows = [row("base", "mean_f1", "percent", [17.5, 18.5]), *scored_rows("full", matrices_of_two_seeds())]
    write_results("table3", "wsfp x", rows, tmp_path)
    assert (tmp_path / "table3.png").stat().st_size < 60_000
    (alt,) = re.findall(r"!\[(.*)\]\(table3\.png\)", (tmp_path / "table3.md").read_text())
    assert "base 18.00 ± 0.71" in alt and f"full {results.summary(rows[1]['seeds'])}" in alt and "95" not in alt
    assert check_pages(tmp_path) == []


def test_a_plot_of_other_numbers_is_reported(tmp_path, traced):
    write_results("table3", "wsfp x", [row("base", "mean_f1", "percent", [1.0])], tmp_path)
    plot = (tmp_path / "table3.png").read_bytes()
    write_results("table3", "wsfp x", [row("base", "mean_f1", "percent", [2.0])], tmp_path)
    (tmp_path / "table3.png").write_bytes(plot)
    (tmp_path / "other.png").write_bytes(plot)
    problems = check_pages(tmp_path)
    assert len(problems) == 2 and "table3.png is not drawn from" in problems[0] and "other.png has no" in problems[1]
    (tmp_path / "other.png").unlink()
    results.write_pages(tmp_path)
    assert check_pages(tmp_path) == []


def test_fig6_is_drawn_by_weight(tmp_path):
    rows = [row(f"{w} = {v}", "mean_f1", "percent", [v, 2 * v]) for w in ("alpha0", "reg") for v in (0.5, 0.25)]
    write_results("fig6", "wsfp x", rows, tmp_path)
    assert results._by_weight({r["name"]: r["seeds"] for r in rows}) == {
        weight: {0.5: [0.5, 1.0], 0.25: [0.25, 0.5]} for weight in ("alpha0", "reg")
    }
    assert "reg = 0.25 0.38 ± 0.18" in (tmp_path / "fig6.md").read_text() and (tmp_path / "fig6.png").exists()


@pytest.mark.parametrize(
    "rows",
    [
        [row("r", "mean_f1", "percent", [])],
        [row("r", "mean_f1", "percent", [1, 2], {"skin": [1]})],
        [{"name": "r", "value": 3}],
    ],
)
def test_rows_of_another_shape_are_refused_and_nothing_is_written(tmp_path, rows):
    with pytest.raises(InputError):
        write_results("t", "wsfp x", rows, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_results_file_is_named(tmp_path):
    (tmp_path / "t.json").write_text('{"rows": []}')
    with pytest.raises(InputError, match=r"t\.json is not a results file"):
        read_results("t", tmp_path)
    with pytest.raises(InputError, match=r"no results file at .*u\.json"):
        read_results("u", tmp_path)


def test_notebooks_get_rows_by_their_words_or_one_line(capsys):
    found = results.stored("table1", "DisFaceRep: ", "wsfp systems run")
    assert [each["name"].split(": ")[1] for each in found] == ["pseudo masks", "val", "test"]
    ends = results.stored("table1", "DisFaceRep: ", "wsfp systems run", ("mean_f1_low", "mean_f1_high"))
    assert len(ends) == 6 and capsys.readouterr().out == ""
    assert results.stored("nobody", "", "wsfp nothing") == []
    assert capsys.readouterr().out == "docs/results/nobody.json is not there: `wsfp nothing` measures it.\n"
