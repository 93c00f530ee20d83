"""Print the executed notebooks, for a room without machines: build/handout/NAME.pdf.

usage: python -m tools.handout    after `make tutorial`

Hints and solutions stay folded, so they are not printed.  CHROMIUM names another browser.
"""

import sys
from pathlib import Path

from tools.browser import open_tab
from wsfp_helpers.common.errors import InputError, exit_on_bad_input
from wsfp_helpers.common.files import atomic_path

BUILD = Path(__file__).parents[1] / "build"
FOOTER = '<div style="font-size: 8px; width: 100%; text-align: center"><span class="pageNumber"></span></div>'


def print_pages(build: Path = BUILD) -> list[Path]:
    """Print ``build/NAME.html`` of every notebook; raises :class:`InputError` when there are none."""
    pages, printed = sorted(build.glob("[0-9][0-9]_*.html")), []
    if not pages:
        raise InputError(f"{build} has no pages of notebooks: run `make tutorial` first")
    with open_tab(1000, 1400) as tab:
        tab.context.set_offline(True)  # the badges of the pages are on the web
        for page in pages:
            tab.goto(page.resolve().as_uri())
            tab.add_style_tag(content="pre { white-space: pre-wrap !important }")  # paper has no scroll bar
            with atomic_path(build / "handout" / f"{page.stem}.pdf") as part:
                tab.pdf(
                    path=part, format="A4", print_background=True, display_header_footer=True,
                    header_template="<span></span>", footer_template=FOOTER,
                    margin={side: "15mm" for side in ("top", "bottom", "left", "right")},
                )  # fmt: skip
            printed.append(build / "handout" / f"{page.stem}.pdf")
    return printed


def main() -> int:
    """Run the command line; returns the exit code."""
    with exit_on_bad_input():
        printed = print_pages()
    print(f"{len(printed)} handouts in {printed[0].parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
