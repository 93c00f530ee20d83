"""Look at a notebook as a person would: screenshots of the whole of it, screen by screen, with headless Chromium.

usage: python -m tools.lab_check build/00_start_here.html SHOTS       an executed page: seconds
       python -m tools.lab_check notebooks/00_start_here.ipynb SHOTS  live: JupyterLab, all cells run, then the pictures

Writes SHOTS/NAME-01.png and so on.  Prints errors, cells that wrote to stderr, pictures without alternative text, and
what the browser's console complains of; exits with 1 when a cell failed.  Needs chromium (CHROMIUM names another one).
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page

from tools.browser import open_tab
from wsfp_helpers.common.errors import exit_on_bad_input

WIDTH, HEIGHT = 1280, 1400
START, RUN = 120, 1200
"""Seconds that JupyterLab may take to start, and the notebook to run."""


def look(path: Path, shots: Path) -> int:
    """Take the screenshots of one page or notebook; returns the number of cells that failed."""
    shots.mkdir(parents=True, exist_ok=True)
    complaints: list[str] = []
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(_served(path)) if path.suffix == ".ipynb" else None
        tab = stack.enter_context(open_tab(WIDTH, HEIGHT))
        tab.on("console", lambda message: complaints.append(message.text[:200]) if message.type == "error" else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)[:200]))
        if address is None:
            tab.goto(path.resolve().as_uri())
            scroller = "document.scrollingElement"
        else:
            _run_all_cells(tab, address, path.name)
            scroller = "document.querySelector('.jp-WindowedPanel-outer')"
        count = _photograph(tab, scroller, shots, path.stem)
        failed = _report(tab)
    print(f"{count} screenshots in {shots}; browser console: {complaints or 'no errors'}")
    return failed


def _photograph(tab: Page, scroller: str, shots: Path, name: str) -> int:
    height, step = tab.evaluate(f"[{scroller}.scrollHeight, {scroller}.clientHeight]")
    tops = range(0, max(height - 1, 1), max(step - 60, 1))
    for number, top in enumerate(tops, 1):
        tab.evaluate(f"{scroller}.scrollTop = {top}")
        tab.wait_for_timeout(300)
        tab.screenshot(path=shots / f"{name}-{number:02d}.png")
    return len(tops)


def _report(tab: Page) -> int:
    errors = tab.locator("[data-mime-type='application/vnd.jupyter.error'], .jp-mod-error").count()
    stderr = tab.locator("[data-mime-type='application/vnd.jupyter.stderr']").count()
    # In cells only: JupyterLab's own list of kernels has a picture without text.
    nameless = ":is(img:not([alt]), img[alt=''], img[alt^='No description has been provided'])"
    unnamed = tab.locator(f".jp-Cell {nameless}").count()
    print(f"{errors} errors, {stderr} outputs on stderr, {unnamed} pictures without alternative text")
    return errors


@contextlib.contextmanager
def _served(notebook: Path) -> Iterator[str]:
    """JupyterLab on this machine over a copy of the notebook; yields the address of its folder."""
    with tempfile.TemporaryDirectory() as folder:
        # The notebook runs from a copy, which JupyterLab may save; everything beside its folder is linked.
        root = Path(folder) / "root"
        folder_copy = root / notebook.resolve().parent.name
        folder_copy.mkdir(parents=True)
        shutil.copy(notebook, folder_copy)
        for item in notebook.resolve().parents[1].iterdir():
            if item.name != folder_copy.name:
                (root / item.name).symlink_to(item)
        with serve(root, Path(folder)) as (address, _):
            yield f"{address}/lab/tree/{folder_copy.name}"


@contextlib.contextmanager
def serve(root: Path, home: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """JupyterLab on this machine over the folder ``root``; yields its address and process.

    Settings, temporary files and what says where kernels listen are below ``home``.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "notebook-extension/tracker": {"windowingMode": "none"},
    }
    for name, content in settings.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    (home / "tmp").mkdir()
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "TMPDIR": str(home / "tmp"),
    }
    command = [
        sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", f"--ServerApp.root_dir={root}",
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
        "--IdentityProvider.token=", "--ServerApp.password=", "--LabApp.extension_manager=readonly",
    ]  # fmt: skip
    log = home / "lab.log"
    with log.open("w") as file:
        server = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_until_up(address, server, log)
        yield address, server
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_until_up(address: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + START
    while True:
        try:
            urllib.request.urlopen(f"{address}/api", timeout=2).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"JupyterLab did not start:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.3)


def _run_all_cells(tab: Page, address: str, name: str) -> None:
    """Run the notebook; stops the program with a sentence when a cell has not run in time."""
    # The session starts before the page opens: on a busy machine JupyterLab would ask which kernel to use.
    server, _, folder = address.partition("/lab/tree/")
    tab.context.request.get(f"{server}/lab")
    token = next(cookie["value"] for cookie in tab.context.cookies() if cookie["name"] == "_xsrf")
    session = {"path": f"{folder}/{name}", "name": name, "type": "notebook", "kernel": {"name": "python3"}}
    reply = tab.context.request.post(
        f"{server}/api/sessions", headers={"X-XSRFToken": token}, data=session, timeout=START * 1000
    )
    if not reply.ok:
        raise SystemExit(f"JupyterLab started no kernel: {reply.text()}")
    tab.goto(f"{address}/{name}?reset", timeout=START * 1000)
    tab.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=START * 1000)
    prompts, dialog = tab.locator(".jp-CodeCell .jp-InputPrompt"), tab.locator(".jp-Dialog button.jp-mod-accept")
    # The prompt of a folded cell has no text: only those that wait, run, or have run are counted.
    waiting, busy, ran = (prompts.filter(has_text=re.compile(text)) for text in (r"\[\s*\]", r"\[\*\]", r"\[\d+\]"))
    end = time.monotonic() + RUN
    while (waiting.count() or busy.count() or not ran.count()) and time.monotonic() < end:
        if dialog.count():
            dialog.first.click()
        elif not busy.count():
            tab.get_by_role("menuitem", name="Run", exact=True).click()
            tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            tab.wait_for_timeout(3000)
        tab.wait_for_timeout(500)
    if left := waiting.count() + busy.count():
        raise SystemExit(f"{left} of {prompts.count()} code cells did not run in {RUN} s")
    tab.wait_for_timeout(2000)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="an executed page (.html) or a notebook (.ipynb)")
    parser.add_argument("shots", type=Path, help="folder for the pictures")
    options = parser.parse_args(arguments)
    with exit_on_bad_input():
        return bool(look(options.path, options.shots))


if __name__ == "__main__":
    sys.exit(main())
