"""The one exception for bad input, and how a script ends on it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input from the user: the message is one sentence with what was expected, what came, and what to do."""


def one_line(text: str) -> str:
    """``text`` with escapes for what breaks a line or cannot be printed: names of files may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def exit_on_bad_input() -> Iterator[None]:
    """For scripts: :class:`InputError` ends the process with its sentence on stderr and exit code 2, as in ``wsfp``."""
    try:
        yield
    except InputError as error:
        print(one_line(str(error)), file=sys.stderr)
        sys.exit(2)
