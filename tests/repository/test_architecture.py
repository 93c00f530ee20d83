"""The rooms of the package: imports lead downwards only, and the picture in the docs is that of the code."""

import pytest

from tools import architecture

LEVEL = {name: number for number, layer in enumerate(architecture.LAYERS) for name in layer}


def test_every_room_has_a_place():
    rooms = {architecture.room(name) for name in architecture.modules()} - {""}
    assert rooms == set(LEVEL)


def test_no_arrow_leads_back():
    pairs = architecture.arrows(architecture.modules())
    assert {("method", "data"), ("stages", "parsing"), ("cli", "stages")} <= pairs  # the graph is not empty
    assert [(a, b) for a, b in sorted(pairs) if LEVEL[b] >= LEVEL[a]] == []


def test_no_module_imports_itself_by_a_detour():
    graph, done = architecture.modules(), set()

    def visit(name, path):
        assert name not in path, f"a circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            for other in graph[name]:
                visit(other, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    assert done == set(graph)


def test_imports_inside_functions_count(tmp_path, monkeypatch):
    package = tmp_path / "wsfp_helpers" / "labels"
    package.mkdir(parents=True)
    (package / "a.py").write_text("def f():\n    from wsfp_helpers.cli import app\n    return app\n")
    (tmp_path / "wsfp_helpers" / "cli.py").write_text("app = None\n")
    monkeypatch.setattr(architecture, "ROOT", tmp_path)
    monkeypatch.setattr(architecture, "PACKAGE", tmp_path / "wsfp_helpers")
    assert architecture.arrows(architecture.modules()) == {("labels", "cli")}


def test_the_picture_is_that_of_the_code():
    text = architecture.PAGE.read_text(encoding="utf-8")
    drawn = text.partition(architecture.BEGIN)[2].partition(architecture.END)[0]
    assert drawn == architecture.picture(), "run python -m tools.architecture"


@pytest.mark.parametrize("room", sorted(LEVEL))
def test_the_page_says_what_is_in_every_room(room):
    text = architecture.PAGE.read_text(encoding="utf-8")
    assert f"`{room}" in text.partition("| room |")[2]
