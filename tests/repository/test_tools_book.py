"""The book: links lead somewhere, formulas and figures need no script, terms are linked once, checks find faults."""

import base64
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import address, book, book_check, slides
from wsfp_helpers.common.errors import InputError

ROOT = Path(__file__).parents[2]
HERE = address.Address("https://github.com/me/course", "1.2.3")
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
FIGURE = f'<img alt="a face" src="data:image/png;base64,{base64.b64encode(b"PNG").decode()}" style="max-width: 100%">'


def test_links_stay_in_the_book_or_lead_to_the_repository():
    text = "[a](faq.md) [b](results/) [c](../LICENSE#mit) [d](https://x.org) `[e](none.md)` ![f](terms.png)"
    made = book.relink(text, "docs/x.md", {"docs/faq.md", "docs/terms.png"}, HERE)
    base = "https://github.com/me/course"
    assert made == (
        f"[a](faq.md) [b]({base}/tree/v1.2.3/docs/results) [c]({base}/blob/v1.2.3/LICENSE#mit) [d](https://x.org) "
        f"`[e](none.md)` ![f](terms.png)"
    )
    with pytest.raises(InputError, match=r"docs/x\.md: the link to none\.md leads nowhere"):
        book.relink("[e](none.md)", "docs/x.md", set(), HERE)


@pytest.mark.parametrize("page", book.pages())
def test_every_page_can_be_put_together(page):
    book.relink((ROOT / page).read_text(), page, set(), HERE)


def test_every_page_is_in_the_table_of_contents():
    index = (ROOT / "docs" / "book" / "index.md").read_text()
    listed = set(re.findall(r"(?m)^(?:docs/\w+|[A-Z_]+)$", index))
    wanted = {page.removesuffix(".md") for page in book.pages()}
    assert {page for page in wanted if not page.startswith(("docs/results/", book.CARDS))} == listed


def test_formulas_become_mathml_and_code_stays():
    made = book.mathml("$x_k$ and\n$$\\frac{a}{b}$$ and `$HOME` and $a\n+ b$, 5 $ or 6 $\n\n```\n$PATH$\n```")
    assert made.count("<math") == 3 and "<mfrac>" in made and 'display="block"' in made
    assert "`$HOME`" in made and "$PATH$" in made and "5 $ or 6 $" in made


def test_a_term_is_linked_where_it_is_used_first():
    known = book.terms("* **seed**: a number\n  of a run.\n* **F1**: a score.\n* **label map**: classes.\n")
    assert known["seed"] == "a number of a run."
    made = book.link_terms(["# Seeds\n`seed` of [a seed](x.md)", "Two seeds, a seed, f1 and F1; label maps"], known)
    assert made == [
        "# Seeds\n`seed` of [a seed](x.md)",
        "Two {term}`seeds <seed>`, a seed, f1 and {term}`F1 <F1>`; {term}`label maps <label map>`",
    ]


def test_the_glossary_is_in_order_and_explains_what_the_notebooks_use():
    known = book.terms(GLOSSARY)
    assert list(known) == sorted(known, key=str.lower) and len(known) >= 40
    assert book.glossary(GLOSSARY).count("\n  ") == len(known) and "* **" not in book.glossary(GLOSSARY)
    text = "\n".join(
        cell.source
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
        for cell in nbformat.read(path, as_version=4).cells
    )
    unused = [term for term in known if not re.search(re.escape(term).replace(r"\ ", r"\s+"), text, re.IGNORECASE)]
    assert len(unused) <= len(known) // 5, unused


def test_names_in_the_notation_exist():
    for line in (ROOT / "docs" / "notation.md").read_text().splitlines():
        for file, names in re.findall(r"`((?:\w+/)+\w+\.py)` ((?:`\w+`(?:, )?)+)", line):
            text = (ROOT / "wsfp_helpers" / file).read_text()
            for name in re.findall(r"\w+", names):
                assert re.search(rf"(?m)^\s*(?:def|class) {name}\b", text), f"{file} {name}"


def test_figures_become_files_with_their_alternative_text(tmp_path):
    shown = new_output("display_data", {"text/html": FIGURE, "image/png": "x", "text/plain": "[figure]"})
    notebook = new_notebook(cells=[new_code_cell("x", outputs=[shown])])
    book.figures(notebook, "00_a", tmp_path)
    assert (tmp_path / "00_a-01.png").read_bytes() == b"PNG"
    assert notebook.cells[0].outputs[0].data == {"text/html": '<img alt="a face" src="../_static/figures/00_a-01.png">'}


def test_diagrams_are_files_again():
    path = ROOT / "notebooks" / "06_parser.ipynb"
    texts = [cell.source for cell in book._executed(path, path.parent).cells if cell.cell_type == "markdown"]
    assert [re.findall(r"\]\((figures/\w+\.svg)\)", text) for text in texts if "](figures/" in text] == [
        ["figures/stage_two.svg"],
        ["figures/decoder.svg"],
    ]
    assert "data:image" not in "\n".join(texts)


def test_the_page_of_the_parsers_is_part_of_the_book_or_the_book_says_how_to_make_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(book, "write_page", lambda out: (out.mkdir(parents=True), (out / "index.html").write_text("x")))
    book.try_them(tmp_path)
    (target,) = re.findall(r'href="([^"]+)"', (tmp_path / "try.md").read_text())
    assert (tmp_path / "_extra" / target).read_text() == "x" and capsys.readouterr().out == ""

    def fail(out):
        raise InputError("could not fetch onnxruntime-web 1.30.0 with npm")

    monkeypatch.setattr(book, "write_page", fail)
    book.try_them(tmp_path)
    text = (tmp_path / "try.md").read_text()
    assert "href" not in text and "`wsfp page --out DIR` writes it" in text
    assert "without the page of the parsers: could not fetch onnxruntime-web" in capsys.readouterr().out


def test_a_slide_has_one_picture_and_one_sentence():
    shown = new_output("display_data", {"text/html": '<img alt="a face" src="../_static/figures/00_a-01.png">'})
    cells = [
        new_markdown_cell("# 00 Title\n[![Open](https://x.org/b.svg)](x)\n\n**Time** 5 minutes"),
        new_markdown_cell("## Part $x$\nFirst.  What **counts** is [this](y.md).  Third."),
        new_code_cell("x", outputs=[shown, shown]),
        new_markdown_cell("## Last\nThe end."),
    ]
    page = slides.deck(new_notebook(cells=cells), "../pictures/")
    assert page.count("<section>") == 3 and page.count("<img") == 1 and page.count("<h1>") == 1
    assert '<img alt="a face" src="../pictures/00_a-01.png"><p>What <strong>counts</strong> is this.</p>' in page
    assert "Third" not in page and "Open" not in page and "<math" in page


def test_what_is_wrong_with_a_page_is_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="b.html#there">b</a><a href="#here">a</a><img alt="x" src="y">'
    )
    (tmp_path / "b.html").write_text(
        '<a href="none.html">x</a><img src="y.png"><img alt=" " src="z"><script src="https://cdn.org/x.js"></script>'
    )
    assert list(book_check.problems(tmp_path)) == [
        "a.html: b.html#there names no place of that page",
        "b.html: a picture without an alternative text: y.png",
        "b.html: a picture without an alternative text: z",
        "b.html: fetches https://cdn.org/x.js",
        "b.html: none.html leads nowhere",
    ]


@pytest.mark.promise("security", "actions of CI", "-", "pinned by SHA")
def test_actions_are_pinned():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for action in re.findall(r"uses: (\S+)", path.read_text()):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), f"{path.name}: {action}"
        assert path.read_text().count("actions/checkout@") == path.read_text().count("persist-credentials: false")
