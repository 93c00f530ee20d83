"""The ladder's scores are those that the pages of docs/results show."""

from wsfp_helpers.common.files import COURSE
from wsfp_helpers.notebook.ladder import NETWORKS, PARSERS
from wsfp_helpers.tooling.ladder import stored_scores


def test_each_step_has_the_score_of_the_results_page():
    pages = {
        name: (COURSE / "docs" / "results" / f"{name}.md").read_text() for name in ("table3", "parser_plain", "parsers")
    }
    scores = stored_scores()
    assert list(scores) == [*NETWORKS, *PARSERS]
    for step, row, page in (
        ("baseline", "Base.", "table3"),
        ("+ TCD", "Base. + CCD + TCD", "table3"),
        ("parser, plain labels", "plain, celeb/test (228 pictures)", "parser_plain"),
        ("parser, full supervision", "supervised, celeb/test (228 pictures)", "parsers"),
    ):
        assert f"| {row} | mean_f1 | {scores[step][0]} |" in pages[page]
