"""Check the built book: links, alternative texts, scripts from elsewhere, and accessibility by axe in Chromium.

usage: npm ci --prefix tools && python -m tools.book_check [FOLDER]    by default build/book/html

Every page is opened.  Exits with 1 for a link inside the book that leads nowhere, a picture without an alternative
text, anything that a page fetches from elsewhere, and a violation that axe calls serious or critical.  CHROMIUM names
another browser; links that lead out of the book are checked by `make book-links`, which needs a network.
"""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from playwright.sync_api import Page

from tools.browser import open_tab
from wsfp_helpers.common.errors import exit_on_bad_input

ROOT = Path(__file__).parents[1]
AXE = ROOT / "tools" / "node_modules" / "axe-core" / "axe.min.js"


class _Reader(HTMLParser):
    """Links, ids, pictures without alternative text, and what is fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.problems: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Take what is of interest in one element."""
        values = dict(attributes)
        if name := values.get("id"):
            self.ids.add(name)
        if tag == "a" and (link := values.get("href")):
            self.links.append(link)
        if tag == "img" and not (values.get("alt") or "").strip():
            self.problems.append(f"a picture without an alternative text: {values.get('src')}")
        for key in ("src", "href") if tag in ("script", "link", "iframe") else ():
            address = values.get(key) or ""
            if "://" in address and values.get("rel") != "canonical":
                self.problems.append(f"fetches {address}")


def read(path: Path) -> _Reader:
    """What one page holds."""
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def problems(folder: Path) -> Iterator[str]:
    """A sentence for every link inside the book that leads nowhere, and for what its pages lack."""
    pages = {path.resolve(): read(path) for path in sorted(folder.rglob("*.html"))}
    for path, page in pages.items():
        where = path.relative_to(folder.resolve())
        yield from (f"{where}: {problem}" for problem in page.problems)
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                yield f"{where}: {link} leads nowhere"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                yield f"{where}: {link} names no place of that page"


def accessibility(tab: Page, path: Path) -> list[str]:
    """What axe calls serious or critical on one page."""
    tab.goto(path.resolve().as_uri())
    tab.evaluate(AXE.read_text(encoding="utf-8"))  # no script tag: the page of the parsers allows only its own
    found = tab.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{each['impact']}: {each['help']} ({len(each['nodes'])} places, as {each['nodes'][0]['target']})"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    folder = Path(arguments[0]) if arguments else ROOT / "build" / "book" / "html"
    found = list(problems(folder))
    print("\n".join(found), flush=True)
    pages = sorted(folder.rglob("*.html"))
    with exit_on_bad_input(), open_tab(1280, 900) as tab:
        for path in pages:
            here = accessibility(tab, path)
            print(f"{path.relative_to(folder)}: {'; '.join(here) or 'good'}", flush=True)
            found += here
    print(f"{len(pages)} pages, {len(found)} problems")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
