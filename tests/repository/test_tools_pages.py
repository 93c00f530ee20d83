"""Pages: readable without network and kernel, pictures with alternative text, widgets as they last looked."""

import re

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.pages import STATE, VIEW, page, still

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def widget(model, text="HBox()"):
    return new_output("display_data", {VIEW: {"model_id": model}, "text/plain": text})


def shown(output, state):
    notebook = new_notebook(cells=[new_code_cell("x", outputs=[output])])
    notebook.metadata["widgets"] = {STATE: {"state": state}}
    return still(notebook).cells[0].outputs


def bar(visibility):
    return {
        "bar": {"state": {"layout": "IPY_MODEL_layout", "children": ["IPY_MODEL_left", "IPY_MODEL_right"]}},
        "layout": {"state": {"visibility": visibility}},
        "left": {"state": {"value": "faces: 100%"}},
        "right": {"state": {"value": " 86/86 [00:02&lt;00:00]"}},
    }


@pytest.fixture(scope="module")
def html_page():
    picture = f'<img alt="a dot" src="data:image/png;base64,{PNG}">'
    cells = [
        new_markdown_cell("# Title\n\nInline $P(k) \\ge 0$ and\n\n$$\\sum_k y_k$$\n\n[next](02_next.ipynb)"),
        new_code_cell("show(figure)", outputs=[new_output("display_data", {"text/html": picture, "text/plain": ""})]),
        new_code_cell("answer = 1", metadata={"tags": ["solution"]}),
    ]
    return page(new_notebook(cells=cells), "00_title", ".")


def test_a_page_asks_no_server(html_page):
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//[^"']+""", html_page)
    assert not re.findall(r"""@import|url\(["']?https?:""", html_page)


def test_formulas_are_drawn_by_the_browser(html_page):
    assert html_page.count("<math") == 2 and 'display="block"' in html_page
    assert "$P(k)" not in html_page


def test_pictures_keep_their_text_and_solutions_are_folded(html_page):
    images = re.findall(r"<img[^>]*>", html_page)
    assert len(images) == 1 and 'alt="a dot"' in images[0]
    assert html_page.count('<details class="solution">') == 1


def test_a_missing_alternative_text_is_visible():
    output = new_output("display_data", {"image/png": PNG})
    text = page(new_notebook(cells=[new_code_cell("x", outputs=[output])]), "n", ".")
    assert "No description has been provided" in text


def test_a_widget_is_replaced_by_what_its_output_area_holds():
    inner = new_output("stream", name="stdout", text="seen\n")
    state = {"box": {"state": {"children": ["IPY_MODEL_area"]}}, "area": {"state": {"outputs": [dict(inner)]}}}
    note, output = shown(widget("box"), state)
    assert "move the controls" in note.text and output.text == "seen\n"


def test_a_finished_progress_bar_becomes_a_line_and_one_that_was_taken_away_nothing():
    (line,) = shown(widget("bar", "faces: 0%"), bar(None))
    assert line.text == "faces: 100% 86/86 [00:02<00:00]\n"
    assert shown(widget("bar", "faces: 0%"), bar("hidden")) == []


def test_a_widget_without_state_keeps_its_text():
    (output,) = shown(widget("gone", "Slider()"), {})
    assert VIEW not in output.data and output.data["text/plain"] == "Slider()"


def test_the_notebook_itself_is_left_alone():
    notebook = new_notebook(cells=[new_code_cell("x", outputs=[widget("bar")])])
    notebook.metadata["widgets"] = {STATE: {"state": bar("hidden")}}
    still(notebook)
    assert len(notebook.cells[0].outputs) == 1 and "widgets" in notebook.metadata
