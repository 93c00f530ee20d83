"""Every notebook runs to its end, and then each of its widgets still draws what it was made for, and can be moved."""

import inspect

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

from tools.notebooks import NOTEBOOKS
from wsfp_helpers.notebook import explorers

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))

WATCH = """\
from IPython.utils.capture import capture_output
from ipywidgets import interactive

widgets_of_the_notebook = []


def draw_and_remember(self, *_):
    self.kwargs = {control._kwarg: control.get_interact_value() for control in self.kwargs_widgets}
    with capture_output() as shown:
        self.f(**self.kwargs)
    self.shown = [output.data["image/png"] for output in shown.outputs if "image/png" in output.data]
    assert self.shown, f"no picture for {self.kwargs}"
    if self not in widgets_of_the_notebook:
        self.first = self.shown
        widgets_of_the_notebook.append(self)


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
print(len(widgets_of_the_notebook), "widgets moved")"""

EXPLORERS = [
    """\
import numpy as np
import torch
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.detect.boxes import shipped_boxes
from wsfp_helpers.method.fcam import Fcam
from wsfp_helpers.method.tcd import TcdConfig
from wsfp_helpers.method.vit import vit_inputs
from wsfp_helpers.nets.vlm import mini_flip
from wsfp_helpers.notebook import explorers, ladder
from wsfp_helpers.stages import load_shipped
faces, vlm, model = synthfaces("celeb/val").subset(range(8)), mini_flip(), load_shipped("full")
rng = np.random.default_rng(0)
fcams = [Fcam(key, np.arange(18), (torch.rand(18, 20, 20),), (160, 160)) for key in faces.ids]
answers = {"celeb": {"a": rng.integers(0, 19, (8, 160, 160), np.uint8), "b": np.zeros((8, 160, 160), np.uint8)}}
with torch.inference_mode():
    output = model(vit_inputs(model, [faces.image(0)]))""",
    "explorers.co_occurrence(synthfaces('celeb/train').labels)",
    "explorers.filter_candidates(faces.image(0), shipped_boxes('celeb/val')[faces.ids[0]].candidates)",
    "explorers.compare_networks({'full': model}, faces.weak.subset(range(4)))",
    "explorers.move_threshold(fcams, faces)",
    "explorers.be_the_map(faces.image(0), vlm)",
    "explorers.loss_switchboard(faces.image(0), torch.tensor(faces.labels[0]), output, vlm, TcdConfig())",
    "explorers.edit_list(fcams, faces)",
    "explorers.browse_errors({'celeb': faces, 'again': faces}, answers | {'again': answers['celeb']})",
    "explorers.ladder(faces.weak.subset([0, 1]), ['one', 'two'], dict.fromkeys([*ladder.NETWORKS, *ladder.PARSERS]))",
    "explorers.sort_systems({'val': {'a': [1.0], 'b': [2.0, 3.0]}, 'test': {'a': [4.0], 'b': [0.5]}})",
]


@pytest.mark.timeout(900)
def test_every_explorer_draws_and_moves():
    sources = [WATCH, *EXPLORERS, MOVE]
    notebook = nbformat.v4.new_notebook(cells=[new_code_cell(text) for text in sources])
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    public = [name for name in vars(explorers) if inspect.isfunction(vars(explorers)[name]) and name[0] != "_"]
    own = [name for name in public if vars(explorers)[name].__module__ == explorers.__name__]
    assert [cell.source.split(".")[1].split("(")[0] for cell in notebook.cells[2:-1]] == own
    assert notebook.cells[-1].outputs[0].text.startswith(f"{len(own)} widgets moved")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_run_to_the_end_and_move_every_widget(path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [new_code_cell(WATCH), *notebook.cells, new_code_cell(MOVE)]
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}},
    ).execute()  # fmt: skip
    moved = int(notebook.cells[-1].outputs[0].text.split()[0])
    assert moved == sum(cell.source.count("explorers.") for cell in notebook.cells if cell.cell_type == "code")
    stderr = [out.text for cell in notebook.cells for out in cell.get("outputs", []) if out.get("name") == "stderr"]
    assert not [text for text in stderr if "it/s" not in text and "%|" not in text], "a cell warns"


def test_a_widget_that_looks_up_a_name_of_the_notebook_is_caught():
    cells = [
        "from ipywidgets import interact\nfrom wsfp_helpers.notebook.plots import bars, show\nheight = 1",
        "def draw(n=2):\n    show(bars({'a': [n * height]}, ['x'], 't', 'y'), alt='a bar')\ninteract(draw, n=(1, 3))",
        "height = 2",
    ]
    notebook = nbformat.v4.new_notebook(cells=[new_code_cell(text) for text in (WATCH, *cells, MOVE)])
    with pytest.raises(Exception, match="draws something else"):
        NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
