"""Look at the page of ``wsfp page`` as a person would, in headless Chromium, and hold its maps against Python.

usage: python -m tools.page_check PAGE SHOTS [PHOTOGRAPH]     the example where no photograph is named

Serves the folder PAGE on this machine, parses the photograph, downloads both maps, and prints how many pixels have the
same class as in Python, how long the answer took, what the Tab key reaches, every request after the page was ready, and
what the console complains of; then what it answers when the photograph is chosen, dropped, pasted and held before a
camera.  Writes screenshots for a desk and a phone to SHOTS.  Exits with 1 when anything is wrong.  Needs chromium
(CHROMIUM names another one).
"""

import contextlib
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from playwright.sync_api import Page

from tools.browser import WAIT, open_tab
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.pictures import read_image, read_label_map
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.parsing.load import SHIPPED_PARSERS, load_parser


@dataclass
class Seen:
    """What a visit showed."""

    threads: int = 0
    said: str = ""
    doubt: str = ""
    pointed: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    """Addresses that were asked for after the page was ready."""
    complaints: list[str] = field(default_factory=list)
    wide: bool = False
    """Whether the phone's page is wider than its screen."""
    reached: list[str] = field(default_factory=list)
    """What the Tab key reaches, from the top of the page with an answer: ids, or texts."""
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    """The downloaded maps ``(H, W)`` uint8."""


def visit(page: Path, shots: Path, photograph: Path) -> Seen:
    """Open the page, parse the photograph, use pointer, keyboard and slider, and download both maps."""
    shots.mkdir(parents=True, exist_ok=True)
    seen = Seen()
    with served(page) as address, open_tab(1200, 900) as tab:
        tab.set_default_timeout(WAIT)
        tab.on("console", lambda message: seen.complaints.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: seen.complaints.append(str(error)))
        tab.goto(address)
        tab.wait_for_selector("body[data-ready]", timeout=WAIT)
        seen.threads = int(tab.get_attribute("body", "data-ready") or 0)
        # Of the whole browser, workers included; blob: stays inside the page.
        tab.context.on("request", lambda r: None if r.url.startswith("blob:") else seen.late.append(r.url))
        tab.context.set_offline(True)
        tab.set_input_files("#file", photograph)
        tab.wait_for_selector("body[data-parsed]", timeout=WAIT)
        seen.said, seen.doubt = tab.inner_text("#status"), tab.inner_text("#doubt")
        seen.reached = _walk(tab)
        seen.pointed = _point(tab)
        tab.screenshot(path=shots / "desk.png", full_page=True)
        for place, name in enumerate(SHIPPED_PARSERS):
            with tab.expect_download(timeout=WAIT) as download:
                tab.click(f"[data-place='{place}']")
            path = shots / download.value.suggested_filename
            download.value.save_as(path)
            seen.maps[name] = read_label_map(path, len(CELEBAMASK))
        tab.set_viewport_size({"width": 390, "height": 800})
        seen.wide = tab.evaluate("document.documentElement.scrollWidth > innerWidth")
        tab.screenshot(path=shots / "phone.png", full_page=True)
    return seen


def _point(tab: Page) -> list[str]:
    """What the page says of the middle, of a place to the right of it by keyboard, and after the slider has moved."""
    tab.hover("#view")
    said = [tab.inner_text("#point")]
    tab.focus("#view")
    tab.keyboard.press("ArrowRight")
    said.append(tab.inner_text("#point"))
    tab.focus("#split")
    tab.keyboard.press("End")
    tab.hover("#view")
    said.append(tab.inner_text("#point"))
    tab.fill("#split", "50")
    return said


def arrive(page: Path, photograph: Path) -> dict[str, list[str]]:
    """Give the page one photograph in every way; returns what its table says, a line for each part, by way.

    ``"chosen"`` as a file, ``"dropped"`` on the page, ``"pasted"``, and by a ``"camera"`` that is worked by keyboard.
    """
    with TemporaryDirectory() as folder:
        film = Path(folder, "camera.mjpeg")
        Image.fromarray(read_image(photograph)).save(film, "JPEG", quality=95, subsampling=0)
        camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
        with served(page) as address, open_tab(1200, 900, *camera, f"--use-file-for-fake-video-capture={film}") as tab:
            tab.set_default_timeout(WAIT)
            tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
            tab.goto(address)
            tab.wait_for_selector("body[data-ready]", timeout=WAIT)
            ways = {"chosen": _choose, "dropped": _drop, "pasted": _paste, "camera": _take}
            said = {}
            for number, (way, give) in enumerate(ways.items(), 1):
                give(tab, photograph)
                tab.wait_for_selector(f"body[data-parsed='{number}']", timeout=WAIT)
                said[way] = tab.inner_text("#parts tbody").splitlines()
    return said


def _choose(tab: Page, photograph: Path) -> None:
    tab.set_input_files("#file", photograph)


def _drop(tab: Page, photograph: Path) -> None:
    browser = tab.context.new_cdp_session(tab)
    data = {"items": [], "files": [str(photograph.resolve())], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 300, "data": data})


def _paste(tab: Page, photograph: Path) -> None:
    Image.fromarray(read_image(photograph)).save(buffer := BytesIO(), "PNG")
    copy = """(text) => {
        const png = new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type: "image/png" });
        return navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
    }"""
    tab.evaluate(copy, b64encode(buffer.getvalue()).decode())
    tab.keyboard.press("Control+V")


def _take(tab: Page, _: Path) -> None:
    tab.focus("#camera")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#camera:has-text('Take the picture')", timeout=WAIT)
    tab.keyboard.press("Enter")


def _walk(tab: Page) -> list[str]:
    reached: list[str] = []
    tab.keyboard.press("Tab")
    while tab.evaluate("document.activeElement !== document.body"):
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.textContent"))
        tab.keyboard.press("Tab")
    return reached


@contextlib.contextmanager
def served(page: Path) -> Iterator[str]:
    """The page's own server on a free port; yields its address."""
    server = subprocess.Popen(
        [sys.executable, "-u", page / "serve.py", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.kill()
        server.wait()


def main() -> None:
    """Run the command line."""
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    page, shots = map(Path, sys.argv[1:3])
    photograph = Path(sys.argv[3]) if len(sys.argv) == 4 else page / "example.jpg"
    with exit_on_bad_input():
        seen, given = visit(page, shots, photograph), arrive(page, photograph)
    image = read_image(photograph)
    same = {name: float((load_parser(name).predict(image)[0] == found).mean()) for name, found in seen.maps.items()}
    print(seen.said, f"{seen.threads} threads", seen.doubt, *seen.pointed, f"by keyboard: {seen.reached}", sep="\n")
    print({name: f"{100 * share:.2f} % of the pixels as in Python" for name, share in same.items()})
    print(f"requests after loading: {seen.late or 'none'}; console: {seen.complaints or 'no errors'}")
    for way, lines in given.items():
        print(f"{way}: {'; '.join(lines)}")
    alike = given["chosen"] == given["dropped"] == given["pasted"]
    sys.exit(bool(seen.late or seen.complaints or seen.wide or not alike or min(same.values()) < 0.99))


if __name__ == "__main__":
    main()
