"""Exercises of the notebooks: a check that says how far a solution is and never stops the notebook."""

from types import TracebackType
from typing import Any, Self


class checking:
    """Run a check of an exercise and print one line about the result.

    Whatever the student's code raises becomes a sentence, so a notebook with open exercises runs to its end.  With
    ``solution=globals()``, which the generated solution cells use, an error is an error, success says nothing about the
    student's own answer, and every name that the block binds gets back at its end what it stood for: after Run All a
    check still judges the student's answer.
    """

    def __init__(self, name: str, solution: dict[str, Any] | None = None) -> None:
        self.name, self.solution = name, solution

    def __enter__(self) -> Self:
        """Begin the check."""
        self._before = dict(self.solution or {})
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        """Print the verdict; only a solution's error, and an interruption, are passed on."""
        solution = self.solution is not None
        if self.solution is not None:
            for name in self.solution.keys() - self._before.keys():
                del self.solution[name]
            self.solution.update(self._before)
        if error is None:
            done = "(the course's own solution runs; your answer is judged by the check above it, and stays as it is)"
            print(done if solution else f"{self.name}: correct.")
            return False
        if solution or not isinstance(error, Exception):
            return False
        print(_verdict(self.name, error, trace))
        return True


def _verdict(name: str, error: Exception, trace: TracebackType | None) -> str:
    # A name that the check itself does not find was never defined; one further down is an error of the student's code.
    undefined = isinstance(error, NameError) and trace is not None and trace.tb_next is None
    if undefined or isinstance(error, NotImplementedError):
        return (
            f"{name}: not solved yet. Fill in the cell above, run it and then this one; two hints are folded above it."
        )
    if isinstance(error, AssertionError):
        return f"{name}: not right yet: {error or 'an assertion of the check failed'}"
    return f"{name}: your code stopped with {type(error).__name__}: {error}"
