"""The stored scores of the ladder's steps (notebook 00, README)."""

from wsfp_helpers.notebook.ladder import PARSERS
from wsfp_helpers.tooling.results import read_results, summary

_ROWS = {"baseline": "Base.", "+ CCD": "Base. + CCD", "+ TCD": "Base. + CCD + TCD"}


def stored_scores() -> dict[str, tuple[str, str]]:
    """For each rung the stored mean F1 of docs/results, ± over seeds where there are several, and of what it is."""
    labels, tested = "pseudo labels of 229 training faces", "228 new faces, celeb/test"
    scores = {rung: (_stored("table3", row), labels) for rung, row in _ROWS.items()}
    for rung, kind in PARSERS.items():
        page = "parser_plain" if kind == "plain" else "parsers"
        scores[rung] = _stored(page, f"{kind}, celeb/test (228 pictures)"), tested
    return scores


def _stored(page: str, name: str) -> str:
    (seeds,) = [row["seeds"] for row in read_results(page)["rows"] if (row["name"], row["metric"]) == (name, "mean_f1")]
    return summary(seeds)
