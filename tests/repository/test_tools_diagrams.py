"""The diagrams are what their source gives, have a title, and every word is inside its picture."""

import base64
import io
from xml.etree import ElementTree

import pytest
from PIL import Image

from tools import diagrams

SVG = "{http://www.w3.org/2000/svg}"


def test_diagrams_are_what_their_source_gives():
    for path, text in diagrams.generate().items():
        assert path.read_text(encoding="utf-8") == text, "run python -m tools.diagrams"
        assert diagrams.drawn_from(path.with_suffix(".png")) == diagrams.digest(text), "run python -m tools.diagrams"
    assert {path.stem for path in diagrams.FOLDER.glob("*")} == {path.stem for path in diagrams.generate()}


def test_notebooks_carry_the_pngs():
    data = base64.b64decode(diagrams.embedded()["figures/course.svg"].removeprefix("data:image/png;base64,"))
    picture, drawing = Image.open(io.BytesIO(data)), ElementTree.parse(diagrams.FOLDER / "course.svg").getroot()
    assert picture.format == "PNG"
    assert picture.size == (1.5 * int(drawing.get("width")), 1.5 * int(drawing.get("height")))


@pytest.mark.parametrize("name", diagrams.DIAGRAMS)
def test_words_fit(name):
    draw, title = diagrams.DIAGRAMS[name]
    root = ElementTree.fromstring(draw().svg(title))
    assert root.find(f"{SVG}title").text and root.get("role") == "img"
    width, height = float(root.get("width")), float(root.get("height"))
    assert width <= 940  # what a page of JupyterLab at 1280 pixels has room for
    boxes = [
        tuple(float(r.get(k)) for k in ("x", "y", "width", "height")) for r in root.iter(f"{SVG}rect") if r.get("x")
    ]
    for text in root.iter(f"{SVG}text"):
        x, y, long = float(text.get("x")), float(text.get("y")), 7.4 * len(text.text)  # at most: Arial, 14 px
        left = x - (long / 2 if text.get("text-anchor") == "middle" else 0)
        own = [b for b in boxes if b[0] <= x <= b[0] + b[2] and b[1] <= y <= b[1] + b[3]]
        if own and text.get("text-anchor") == "middle":
            assert long <= own[0][2] + 8, text.text
        assert left >= 0 and left + long <= width + 8 and 0 < y <= height, text.text
