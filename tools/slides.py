"""Slides of an executed notebook: for each section its first sentence and its first picture, as one HTML page."""

import html
import re
from collections.abc import Iterator

from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: slides</title>
<style>
html {{ scroll-snap-type: y mandatory; font: 3.4vmin/1.4 system-ui, sans-serif; color: #111; background: #fff }}
body {{ margin: 0 }}
section {{ box-sizing: border-box; height: 100vh; padding: 4vmin 8vmin; scroll-snap-align: start; display: flex;
  flex-direction: column; justify-content: center; gap: 2vmin; break-after: page }}
h1, h2 {{ margin: 0; line-height: 1.2 }}
p {{ margin: 0; max-width: 55em }}
img {{ max-width: 100%; max-height: 62vh; object-fit: contain; object-position: left }}
a {{ color: #0b57d0 }}
</style>
</head>
<body>
<main>
{slides}
</main>
</body>
</html>
"""
_IMAGE = re.compile(r'<img alt="([^"]*)" src="([^"]+)"')
_DRAWING = re.compile(r"!\[([^\]]+)\]\(([^)\s:]+)\)")


class _Renderer(IPythonRenderer):
    def inline_math(self, body: str) -> str:
        return convert(body)

    def block_math(self, body: str) -> str:
        return convert(body, display="block")


def deck(notebook: NotebookNode, pictures: str) -> str:
    """The page of slides; ``pictures`` is the folder of the notebook's figures, seen from that page."""
    slides = list(_slides(notebook, pictures))
    title = html.escape(re.sub(r"[*_`$]", "", slides[0][0]))
    parts = []
    for level, (heading, words, picture) in zip(["h1", *["h2"] * len(slides)], slides, strict=False):
        parts.append(f"<section><{level}>{_inline(heading)}</{level}>{picture}<p>{_inline(words)}</p></section>")
    return PAGE.format(title=title, slides="\n".join(parts))


def _slides(notebook: NotebookNode, pictures: str) -> Iterator[tuple[str, str, str]]:
    """Heading, first sentence, and first picture (or nothing) of every section."""
    heading, words, picture = "", "", ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found = re.match(r"##? +(.+)", cell.source)
            if found:
                if heading:
                    yield heading, words, picture
                heading, words, picture = found[1], "", ""
            words = words or first_sentence(cell.source)
            if not picture and (drawing := _DRAWING.search(cell.source)):
                picture = _tag(html.escape(" ".join(drawing[1].split())), drawing[2], pictures)
        elif "solution" not in cell.metadata.get("tags", []):
            picture = picture or _picture(cell, pictures)
    yield heading, words, picture


def _picture(cell: NotebookNode, pictures: str) -> str:
    for output in cell.get("outputs", []):
        if found := _IMAGE.search(output.get("data", {}).get("text/html", "")):
            return _tag(found[1], found[2], pictures)
    return ""


def _tag(alt: str, path: str, pictures: str) -> str:
    return f'<img alt="{alt}" src="{pictures}{path.split("/")[-1]}">'


def first_sentence(text: str) -> str:
    """The sentence of a text's first paragraph that has bold words, or its first one; no list, table, badge or code."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.splitlines() if not re.match(r"\s*(#|\||\*\s|\d+\.\s|!|\[!|<|>|\$\$)", line)]
        words = " ".join(" ".join(lines).split())
        if words and not words.startswith(("**Afterwards", "**Time", "**Needs")):
            sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z*])", words)
            return next((each for each in sentences if "**" in each), sentences[0])
    return ""


def _inline(text: str) -> str:
    """One paragraph of Markdown as HTML, without links: a slide is not where one clicks."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return (
        MarkdownWithMath(renderer=_Renderer(escape=False)).render(text).strip().removeprefix("<p>").removesuffix("</p>")
    )
