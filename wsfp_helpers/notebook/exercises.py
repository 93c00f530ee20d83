"""Exercises of the notebooks: a check that says how far a solution is and never stops the notebook."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def checking(name: str, solution: bool = False) -> Iterator[None]:
    """Run the assertions of an exercise's check and print one line about the result.

    Whatever the student's code raises becomes a sentence, so a notebook with open exercises runs to its end.  With
    ``solution=True``, which the generated solution cells use, an error is an error.
    """
    try:
        yield
    except Exception as error:
        if solution:
            raise
        print(_verdict(name, error))
    else:
        print(f"{name}: the folded solution passes the same check." if solution else f"{name}: correct.")


def _verdict(name: str, error: Exception) -> str:
    match error:
        case NotImplementedError() | NameError():
            return (
                f"{name}: not solved yet. Fill in the cell above, run it and then this one; "
                f"a solution is folded in the cell below."
            )
        case AssertionError():
            return f"{name}: not right yet: {error or 'an assertion of the check failed'}"
        case _:
            return f"{name}: your code stopped with {type(error).__name__}: {error}"
