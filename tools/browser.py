"""Headless Chromium for the tools that look at pages; CHROMIUM names another browser."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

from wsfp_helpers.common.errors import InputError

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
WAIT = 400_000
"""Milliseconds that the start may take on a busy machine."""


def find_chromium() -> str | None:
    """The program, where there is one."""
    named = os.environ.get("CHROMIUM")
    return shutil.which(named) if named else shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def open_tab(width: int, height: int, *more: str) -> Iterator[Page]:
    """A tab of that size in pixels, in a browser of its own, started with ``more`` arguments.

    Raises :class:`InputError` where there is no browser.
    """
    program = find_chromium()
    if program is None:
        raise InputError("chromium is not installed: install it, or let CHROMIUM name another one")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*ARGUMENTS, *more], timeout=WAIT)
        try:
            yield browser.new_page(viewport={"width": width, "height": height})
        finally:
            browser.close()
