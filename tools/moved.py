"""Write the notebooks once more, for a test of their widgets: build/moved/NAME.ipynb.

usage: python -m tools.moved   then pytest --nbval-lax build/moved/*.ipynb, as `make test` does

Between two more cells each notebook runs to its end, without a warning, and then every widget still draws what it was
made for, and every one of its controls changes the picture.
"""

import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from tools.notebooks import NOTEBOOKS
from wsfp_helpers.common.files import atomic_path

BUILD = Path(__file__).parents[1] / "build" / "moved"

WATCH = """\
import warnings
from IPython.utils.capture import capture_output
from ipywidgets import interactive

widgets_of_the_notebook, warned = [], []


def show_and_remember(message, *place, show=warnings.showwarning):
    warned.append(message)
    show(message, *place)


def draw_and_remember(self, *_):
    self.kwargs = {control._kwarg: control.get_interact_value() for control in self.kwargs_widgets}
    with capture_output() as shown:
        self.f(**self.kwargs)
    self.shown = [output.data["image/png"] for output in shown.outputs if "image/png" in output.data]
    assert self.shown, f"no picture for {self.kwargs}"
    if self not in widgets_of_the_notebook:
        self.first = self.shown
        widgets_of_the_notebook.append(self)


warnings.showwarning = show_and_remember
interactive.update = draw_and_remember"""

MOVE = """\
def other_values(control):
    if hasattr(control, "options"):
        values = [value[1] if isinstance(value, tuple) else value for value in control.options]
        return [value for value in (values[0], values[-1]) if value != control.value]
    ends = (not control.value,) if isinstance(control.value, bool) else (control.min, control.max)
    return [value for value in ends if value != control.value]


for widget in widgets_of_the_notebook:
    widget.update()
    assert widget.shown == widget.first, f"after Run All the widget with {list(widget.kwargs)} draws something else"
    for control in widget.kwargs_widgets:
        start, pictures = control.value, []
        for value in other_values(control):
            control.value = value
            pictures.append(widget.shown)
        control.value = start
        assert any(each != widget.first for each in pictures), f"moving {control._kwarg} changes nothing"
assert not warned, warned"""


def moved(notebook: NotebookNode) -> NotebookNode:
    """A copy between a cell that remembers each widget and what is warned of, and a cell that moves them all.

    The last cell fails where the notebook made fewer widgets than it calls ``explorers``.
    """
    expected = sum(cell.source.count("explorers.") for cell in notebook.cells if cell.cell_type == "code")
    count = f"assert len(widgets_of_the_notebook) == {expected}, len(widgets_of_the_notebook)"
    copy = nbformat.from_dict(notebook)
    copy.cells = [new_code_cell(WATCH), *copy.cells, new_code_cell(f"{MOVE}\n{count}")]
    return copy


def main() -> int:
    """Write the copies; returns the exit code."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        with atomic_path(BUILD / path.name) as part:
            nbformat.write(moved(nbformat.read(path, as_version=4)), part)
    return 0


if __name__ == "__main__":
    sys.exit(main())
