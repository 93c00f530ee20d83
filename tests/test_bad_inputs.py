"""Every bad input is one sentence, exit code 2 (or 1, where the rest goes on) and nothing half-written."""

import pytest

from tests.bad_inputs import CASES, run
from tools import reliability


@pytest.mark.parametrize("case", CASES, ids=[f"{case.group}: {case.what}"[:80] for case in CASES])
def test_a_bad_input_is_one_sentence_and_leaves_nothing(case):
    outcome = run(case)
    assert outcome.error is None
    assert (outcome.code, outcome.changed) == (case.code, [])
    assert len(outcome.sentence.splitlines()) == 1 and outcome.sentence.startswith(("wsfp: ", "failed: "))
    assert reliability.row(case, outcome) in reliability.PAGE.read_text(encoding="utf-8"), (
        "run python -m tools.reliability"
    )


def test_the_cases_are_distinct_and_the_page_has_no_others():
    assert len({(case.group, case.what) for case in CASES}) == len(CASES) >= 250
    lines = reliability.PAGE.read_text(encoding="utf-8").partition(reliability.BEGIN)[2].splitlines()
    assert sum(line.startswith("| ") for line in lines) == len(CASES) + len({case.group for case in CASES})


def test_the_tables_of_the_page_are_what_the_tests_promise():
    rows = list(reliability.promises())
    assert {row[0] for row in rows} == {*reliability.TABLES} and all(len(row) == 5 and all(row) for row in rows)
    assert len({row[-1] for row in rows}) == len(rows) >= 50
    assert reliability.promise_tables() in reliability.PAGE.read_text(encoding="utf-8"), (
        "run python -m tools.reliability"
    )
