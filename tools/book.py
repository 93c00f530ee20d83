"""Put the book together from docs/, the executed notebooks and the docstrings, and build it with Sphinx and MyST.

usage: python -m tools.book    after `make tutorial`: build/book/html/index.html

Pages, pictures and notebooks keep their places of the repository below build/book/source, so that links among them
hold; a link to anything else in the repository leads to its address on the web.  Formulas become MathML, figures become
files, widgets what they show, and the first use of a term in a notebook a link to the glossary.  The page of ``wsfp
page`` becomes part of it where npm has its runtime, or had it once.
"""

import base64
import html
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbformat import NotebookNode

from tools import address, diagrams
from tools.architecture import modules, room
from tools.pages import still
from tools.slides import deck
from wsfp_helpers.common.errors import InputError, exit_on_bad_input
from wsfp_helpers.parsing.page import write_page

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
ALONE = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md")
CARDS = "wsfp_helpers/assets"
PICTURES = {".png", ".svg", ".jpg"}
LEADS = {
    "results": "Every page is made from a JSON file, which a command wrote; it names commit, machine and seeds.",
    "cards": "What each shipped model learnt from, how good it is, and what it must not be used for.",
    "slides": "One picture and one sentence a slide, made from the notebooks.  Space or Page Down turns the page.  To "
    "print whole notebooks: `make handout`.",
}
"""First words of the pages that list others."""
TERM = re.compile(r"^\* \*\*([^*]+)\*\*: (.+(?:\n  .+)*)", re.MULTILINE)
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"^( *)```.*?^\1```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_MATH = re.compile(r"\$\$(.+?)\$\$|\$(?=\S)((?:[^$\n]|\n(?!\n))+?)(?<=\S)\$", re.DOTALL)
_ARROW = re.compile(r"^\s*(\w+) --> (\w+)$", re.MULTILINE)
_IMAGE = re.compile(r'<img alt="([^"]*)" src="data:image/(png|svg\+xml);base64,([^"]+)"[^>]*>')
_KEPT = re.compile(  # where no term is linked: code, formulas, links, pictures, headings, tables
    r"^```.*?^```$|`[^`\n]+`|<math.*?</math>|!?\[[^\]]*\]\([^)]*\)|^[#|][^\n]*$", re.MULTILINE | re.DOTALL
)


def pages() -> list[str]:
    """Every Markdown page of the book that stands in the repository, as a path below it."""
    docs = [path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "book"]
    cards = (ROOT / CARDS).glob("*.md")
    return sorted([path.relative_to(ROOT).as_posix() for path in [*docs, *cards]]) + list(ALONE)


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """The text with ``change`` made wherever there is no code."""
    parts, end = [], 0
    for found in _CODE.finditer(text):
        parts += [change(text[end : found.start()]), found[0]]
        end = found.end()
    return "".join([*parts, change(text[end:])])


def mathml(text: str) -> str:
    """Formulas in dollar signs as MathML, which browsers draw and read out without a script."""

    def change(found: re.Match) -> str:
        block, inline = found[1], found[2]
        return convert(block, display="block") if block else convert(inline)

    return outside_code(text, lambda part: _MATH.sub(change, part))


def relink(text: str, page: str, staged: set[str], where: address.Address) -> str:
    """Links of a page of the repository: those to staged files stay, those to others lead to the repository's address.

    Raises :class:`InputError` for a link that leads nowhere.
    """

    def change(found: re.Match) -> str:
        target, _, anchor = found[2].partition("#")
        if "://" in target or not target or target.startswith("mailto:"):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
        if path in staged:
            return found[0]
        if not (ROOT / path).exists():
            raise InputError(f"{page}: the link to {target} leads nowhere")
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{found[1]}{where.url}/{kind}/{where.tag}/{path}{'#' + anchor if anchor else ''}{found[3]}"

    return outside_code(text, lambda part: _LINK.sub(change, part))


def terms(text: str) -> dict[str, str]:
    """Terms of the glossary's page and what they mean."""
    return {term: " ".join(meaning.split()) for term, meaning in TERM.findall(text)}


def glossary(text: str) -> str:
    """The glossary's page with its list as a directive, to which other pages can lead."""
    entries = "\n".join(f"{term}\n  {meaning}\n" for term, meaning in sorted(terms(text).items(), key=_lower))
    return f"{TERM.sub('', text).strip()}\n\n````{{glossary}}\n{entries}````\n"


def _lower(entry: tuple[str, str]) -> str:
    return entry[0].lower()


def link_terms(cells: list[str], known: dict[str, str]) -> list[str]:
    """The texts of a notebook with the first use of every known term as a link to the glossary."""
    left = sorted(known, key=len, reverse=True)
    linked = []
    for text in cells:
        for term in list(left):
            flags = 0 if term.isupper() else re.IGNORECASE
            word = re.compile(rf"(?<![\w-]){re.escape(term)}s?(?![\w-])", flags)
            for start, end in _free(text):
                if found := word.search(text, start, end):
                    role = f"{{term}}`{found[0]} <{term}>`"
                    text = text[: found.start()] + role + text[found.end() :]
                    left.remove(term)
                    break
        linked.append(text)
    return linked


def _free(text: str) -> Iterator[tuple[int, int]]:
    end = 0
    for found in _KEPT.finditer(text):
        yield end, found.start()
        end = found.end()
    yield end, len(text)


def rooms_as_table(text: str) -> str:
    """A page's mermaid picture of imports as a table, which needs no script and can be read out."""

    def change(found: re.Match) -> str:
        arrows: dict[str, list[str]] = {}
        for a, b in _ARROW.findall(found[0]):
            arrows.setdefault(a, []).append(b)
        rows = "".join(f"| {a} | {', '.join(b)} |\n" for a, b in arrows.items())
        return f"| room | imports |\n|---|---|\n{rows}" if arrows else found[0]

    return re.sub(r"^```mermaid\n.*?^```$", change, text, flags=re.MULTILINE | re.DOTALL)


def figures(notebook: NotebookNode, name: str, folder: Path) -> None:
    """Write the figures of a notebook's outputs as files and let the outputs name them."""
    count = 0
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            found = _IMAGE.fullmatch(output.get("data", {}).get("text/html", "").strip())
            if found is None:
                continue
            count += 1
            file = f"{name}-{count:02d}.{found[2].removesuffix('+xml')}"
            (folder / file).write_bytes(base64.b64decode(found[3]))
            output["data"] = {"text/html": f'<img alt="{found[1]}" src="../_static/figures/{file}">'}
            output["metadata"] = {}


def _api(source: Path) -> str:
    """Write a page for every room of the package; returns the page that lists them."""
    graph: dict[str, list[str]] = {}
    for module in modules():
        if module != "wsfp_helpers":
            graph.setdefault(room(module), []).append(module)
    for name, members in sorted(graph.items()):
        blocks = [
            f"## {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```\n" for module in members
        ]
        (source / "api").mkdir(exist_ok=True)
        (source / "api" / f"{name}.md").write_text(f"# {name}\n\n" + "\n".join(blocks), encoding="utf-8")
    listed = "\n".join(f"api/{name}" for name in sorted(graph))
    return f"# API reference\n\nA page for each room, made of its docstrings.\n\n```{{toctree}}\n{listed}\n```\n"


def stage(source: Path, executed: Path) -> None:
    """Put the book's pages together in the folder ``source``, from the repository and the ``executed`` notebooks.

    Raises :class:`InputError` for a link that leads nowhere and for a notebook that was not run.
    """
    where = address.read()
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    pictures = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*") if path.suffix in PICTURES]
    drawn = [path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").rglob("*") if path.suffix in PICTURES]
    listed = pages()
    staged = {*listed, *pictures, *drawn, *(f"notebooks/{path.name}" for path in notebooks)}
    shutil.rmtree(source, ignore_errors=True)
    figure_folder, extra = source / "_static" / "figures", source / "_extra" / "slides"
    for folder in (figure_folder, extra):
        folder.mkdir(parents=True)
    for path in (*pictures, *drawn):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    for path in drawn:
        shutil.copy(ROOT / path, figure_folder)  # for the slides
    for name in ("conf.py", "index.md", "book.css"):
        shutil.copy(ROOT / "docs" / "book" / name, source / ("_static" if name.endswith(".css") else ".") / name)
    known = terms((ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"))
    for page in listed:
        text = (ROOT / page).read_text(encoding="utf-8")
        text = glossary(text) if page == "docs/glossary.md" else rooms_as_table(text)
        (source / page).parent.mkdir(parents=True, exist_ok=True)
        (source / page).write_text(mathml(relink(text, page, staged, where)), encoding="utf-8")
    slides = []
    for path in notebooks:
        notebook = _executed(path, executed)
        figures(notebook, path.stem, figure_folder)
        (extra / f"{path.stem}.html").write_text(deck(notebook, "../_static/figures/"), encoding="utf-8")
        slides.append((path.stem, notebook.cells[0].source.splitlines()[0].lstrip("# ")))
        texts = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
        for cell, text in zip(texts, link_terms([mathml(cell.source) for cell in texts], known), strict=True):
            cell.source = relink(text, f"notebooks/{path.name}", staged, where)
        nbformat.write(notebook, source / "notebooks" / path.name)
    results = sorted(page for page in listed if page.startswith("docs/results/"))
    cards = [page for page in listed if page.startswith(CARDS)]
    for name, title, members in (("results", "Results", results), ("cards", "Model and data cards", cards)):
        toc = "\n".join(member.removesuffix(".md") for member in members)
        (source / f"{name}.md").write_text(
            f"# {title}\n\n{LEADS[name]}\n\n```{{toctree}}\n{toc}\n```\n", encoding="utf-8"
        )
    (source / "api.md").write_text(_api(source), encoding="utf-8")
    items = "\n".join(f'<li><a href="slides/{name}.html">{html.escape(title)}</a></li>' for name, title in slides)
    (source / "slides.md").write_text(f"# Slides\n\n{LEADS['slides']}\n\n<ul>\n{items}\n</ul>\n", encoding="utf-8")


def _executed(path: Path, executed: Path) -> NotebookNode:
    """The run of a notebook, with widgets replaced by what they show, solutions folded, diagrams as files.

    Raises :class:`InputError` when it was not run, or before its last change.
    """
    run = executed / path.name
    if not run.exists():
        raise InputError(f"{run} is not there: run `make tutorial` first")
    notebook = nbformat.read(run, as_version=4)
    wanted = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    if [cell.source for cell in notebook.cells] != wanted:
        raise InputError(f"{run} is of another version of {path.name}: run `make tutorial` again")
    notebook, pictures = still(notebook), diagrams.embedded().items()
    for cell in notebook.cells:
        for drawing, data in pictures if cell.cell_type == "markdown" else ():
            cell.source = cell.source.replace(data, drawing)
        if "solution" in cell.metadata.get("tags", []):
            cell.metadata = NotebookNode(tags=["hide-cell"])
    return notebook


def try_them(source: Path) -> None:
    """Write the page in which the parsers run below the book's sources, and the book's page that leads to it.

    Without what it needs, npm and a network the first time, the book says how to make it, and this says why.
    """
    text = "Both shipped parsers run in a web page, in your browser: no photograph leaves it.\n\n"
    try:
        write_page(source / "_extra" / "parsers")
        text += '<p><a href="parsers/index.html">Open the page</a> (it loads about 50 MB once)</p>\n'
    except InputError as error:
        print(f"the book is built without the page of the parsers: {error}")
        text += "This copy of the book has none: `wsfp page --out DIR` writes it.\n"
    (source / "try.md").write_text(f"# Try the parsers\n\n{text}", encoding="utf-8")


def build(source: Path, target: Path) -> int:
    """Run Sphinx; any warning is an error.  Returns its exit code."""
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", str(source), str(target)]
    code = subprocess.run(command).returncode
    for template in (target / "_static").glob("*macros.html"):  # the themes leave theirs there, and they are no pages
        template.unlink()
    for path in target.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        # MyST-NB's label hides the words that stand there from screen readers.
        path.write_text(text.replace(' aria-label="Toggle hidden content"', ""), encoding="utf-8")
    return code


def main() -> int:
    """Run the command line; returns the exit code."""
    with exit_on_bad_input():
        stage(BUILD / "book" / "source", BUILD)
        try_them(BUILD / "book" / "source")
    shutil.rmtree(BUILD / "book" / "html", ignore_errors=True)
    return build(BUILD / "book" / "source", BUILD / "book" / "html")


if __name__ == "__main__":
    sys.exit(main())
