"""Multiple-choice questions at the end of a notebook, with an explanation behind every option.

Each option is a ``details`` element of HTML: a click, or Enter on the keyboard, opens it and says whether it is right
and why.  Nothing of it needs a kernel, JavaScript or a network, so it works in every version of JupyterLab, on Colab
and in a printed page.  (jupyterquiz draws its questions with JavaScript, which pages without a kernel do not run.)
"""

import html
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from IPython.display import display

from wsfp_helpers.common.errors import InputError

FOLDER = Path(__file__).parent / "questions"


@dataclass(frozen=True)
class Option:
    """One answer: what it says, whether it is right, and why."""

    text: str
    right: bool
    why: str


@dataclass(frozen=True)
class Question:
    """A question with its options, in the order of the alphabet."""

    text: str
    options: tuple[Option, ...]


def questions(notebook: str) -> list[Question]:
    """The questions of a notebook, named by its number, such as ``"02"``.

    The file ``questions/NN.toml`` has tables ``[[question]]`` with ``ask``, ``right = [text, why]`` and ``wrong``, a
    list of such pairs.
    """
    known = sorted(path.stem for path in FOLDER.glob("*.toml"))
    if notebook not in known:
        raise InputError(f"no questions of a notebook {notebook!r}: expected one of {', '.join(known)}")
    content = tomllib.loads((FOLDER / f"{notebook}.toml").read_text(encoding="utf-8"))
    found = []
    for entry in content["question"]:
        options = [Option(entry["right"][0], True, entry["right"][1])]
        options += [Option(text, False, why) for text, why in entry["wrong"]]
        found.append(Question(entry["ask"], tuple(sorted(options, key=lambda option: option.text.lower()))))
    return found


def quiz(notebook: str) -> None:
    """Show the questions of a notebook; a click on an option says whether it is right, and why."""
    asked = questions(notebook)
    plain = "\n".join(f"{i}. {each.text}" for i, each in enumerate(asked, 1))
    display({"text/html": _page(asked), "text/plain": plain}, raw=True)


def _page(asked: Sequence[Question]) -> str:
    items = []
    for question in asked:
        options = "".join(
            f"<details><summary>{html.escape(option.text)}</summary><p><b>{'Right.' if option.right else 'No.'}</b> "
            f"{html.escape(option.why)}</p></details>"
            for option in question.options
        )
        items.append(f"<li><p><b>{html.escape(question.text)}</b></p>{options}</li>")
    return f"<ol>{''.join(items)}</ol>"
