"""Checks of exercises say how far an answer is, and stop nothing but a wrong solution."""

from contextlib import nullcontext

import pytest

from wsfp_helpers.notebook.exercises import checking


def verdict(capsys, body, **options):
    with checking("Task 1", **options):
        body()
    return capsys.readouterr().out.strip()


def stub():
    raise NotImplementedError("your code here")


def wrong():
    raise AssertionError("the nose has no side")


def misspelt():
    return never_defined  # noqa: F821


def test_a_right_answer_is_correct(capsys):
    assert verdict(capsys, lambda: None) == "Task 1: correct."


def test_an_open_exercise_says_where_to_go_on(capsys):
    assert verdict(capsys, stub).startswith("Task 1: not solved yet.")


def test_a_name_that_was_never_defined_is_an_open_exercise(capsys):
    with checking("Task 1"):
        my_answer  # noqa: B018, F821
    assert "not solved yet" in capsys.readouterr().out


def test_a_misspelt_name_inside_an_answer_is_an_error_of_the_answer(capsys):
    text = verdict(capsys, misspelt)
    assert text.startswith("Task 1: your code stopped with NameError") and "never_defined" in text


def test_a_wrong_answer_gets_the_sentence_of_the_check(capsys):
    assert verdict(capsys, wrong) == "Task 1: not right yet: the nose has no side"


def test_the_course_s_own_solution_does_not_read_like_a_pass(capsys):
    text = verdict(capsys, lambda: None, solution={})
    assert "correct" not in text and "pass" not in text and "your answer is judged by the check above" in text


@pytest.mark.parametrize("body", [stub, wrong, misspelt])
def test_a_wrong_solution_is_an_error(body):
    with pytest.raises((NotImplementedError, AssertionError, NameError)), checking("Task 1", solution={}):
        body()


@pytest.mark.parametrize("answer", ["guess = 'hair'", ""])
@pytest.mark.parametrize("works", [True, False])
def test_after_a_solution_the_answer_is_the_student_s(answer, works, capsys):
    space = {"checking": checking}
    exec(answer, space)
    before = dict(space)
    cell = "with checking('Task 1', solution=globals()):\n    guess, help = 'skin', 1\n    assert guess == "
    with nullcontext() if works else pytest.raises(AssertionError):
        exec(cell + ("'skin'" if works else "'nose'"), space)
    assert space == before
    exec("with checking('Task 1'):\n    assert guess == 'skin', f'{guess} is not it'", space)
    assert capsys.readouterr().out.endswith("hair is not it\n" if answer else "two hints are folded above it.\n")


def test_an_interruption_is_passed_on():
    with pytest.raises(KeyboardInterrupt), checking("Task 1"):
        raise KeyboardInterrupt
