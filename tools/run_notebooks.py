"""Run notebooks live, each in its own kernel, and write the executed notebooks and HTML pages to build/.

usage: python -m tools.run_notebooks [NOTEBOOK ...]   without arguments: every notebook of notebooks/

Prints the minutes and the peak memory of each (resident memory of the kernel and its children, summed).  Exits with 1
when a cell fails and says which; the page of a failed notebook is written too and ends with the error.
"""

import argparse
import os
import queue
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from nbformat import NotebookNode

from tools.pages import page
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import atomic_path
from wsfp_helpers.common.memory import PeakMemory

ROOT = Path(__file__).parents[1]
CELL_TIMEOUT = 900
"""Seconds a single cell may take."""


@dataclass(frozen=True)
class Run:
    """One executed notebook: seconds, peak memory in bytes, and what went wrong (``None``: nothing)."""

    name: str
    seconds: float
    peak: int
    error: str | None


def row(name: str, seconds: float, peak: int, result: str) -> str:
    """One line of the table."""
    return f"{name:28}{seconds / 60:8.2f}{peak / 1e6:12.0f} MB   {result}"


class _ShellChannel(AsyncZMQSocketChannel):
    """Look for a reply every half second, not only when the socket announces one.

    For a figure in an Output widget nbclient sends on this socket while it waits there for the cell's reply; sending
    can swallow the announcement, and the finished cell then seemed to run until its timeout (in about half the runs).
    """

    async def get_msg(self, timeout: float | None = None) -> dict:
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while True:
            left = end - time.monotonic()
            try:
                return await super().get_msg(timeout=max(0.0, min(left, 0.5)))
            except queue.Empty:
                if left <= 0.5:
                    raise


class _Client(AsyncKernelClient):
    shell_channel_class = _ShellChannel


class _Manager(AsyncKernelManager):
    client_factory = _Client


def children_memory() -> int:
    """Resident memory in bytes of all processes that this one started, summed."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def run(path: Path, build: Path) -> Run:
    """Execute one notebook in its own folder; writes ``build/NAME.ipynb`` and ``build/NAME.html``."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        kernel_manager_class=_Manager,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    error, start = None, time.perf_counter()
    with PeakMemory(children_memory) as memory:
        try:
            client.execute()
        except (CellControlSignal, DeadKernelError) as failure:
            error = _describe(failure, notebook)
    seconds = time.perf_counter() - start
    for suffix, text in (
        ("ipynb", nbformat.writes(notebook) + "\n"),
        ("html", page(notebook, path.stem, str(path.parent))),
    ):
        with atomic_path(build / f"{path.stem}.{suffix}") as part:
            part.write_text(text, encoding="utf-8")
    return Run(path.stem, seconds, memory.most, error)


def _describe(failure: Exception, notebook: NotebookNode) -> str:
    """Which cell failed (its place, the heading above it, its first line) and why, in one line."""
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    index = next((i for i in code if _has_error(notebook.cells[i])), None)
    if index is None:  # no reply came: the cell that was started last
        index = max((i for i in code if _was_started(notebook.cells[i])), default=0)
        why = str(failure).strip().splitlines()[0]
    else:
        error = next(o for o in notebook.cells[index].outputs if o.output_type == "error")
        why = f"{error.ename}: {error.evalue}"
    headings = [
        line.lstrip("# ")
        for cell in notebook.cells[:index] if cell.cell_type == "markdown"
        for line in cell.source.splitlines() if line.startswith("#")
    ]  # fmt: skip
    section = f" under {headings[-1]!r}" if headings else ""
    first_line = next(iter(notebook.cells[index].source.splitlines()), "")
    return f"FAILED in cell {index + 1} of {len(notebook.cells)}{section} ({first_line}): {why}"


def _was_started(cell: NotebookNode) -> bool:
    return "iopub.execute_input" in cell.metadata.get("execution", {})


def _has_error(cell: NotebookNode) -> bool:
    return any(output.output_type == "error" for output in cell.outputs)


def main(arguments: list[str] | None = None, build: Path = ROOT / "build") -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted((ROOT / "notebooks").glob("*.ipynb")))
    paths = parser.parse_args(arguments).notebooks
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    print(f"{'notebook':28}{'minutes':>8}{'peak memory':>15}", flush=True)
    runs = []
    try:
        for path in paths:
            done = run(path, build)
            runs.append(done)
            print(row(done.name, done.seconds, done.peak, done.error or "ok"), flush=True)
    except (InputError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    failed = sum(r.error is not None for r in runs)
    result = f"{failed} of {len(runs)} failed" if failed else f"{len(runs)} ok"
    print(row("total", sum(r.seconds for r in runs), max((r.peak for r in runs), default=0), result))
    print(f"executed notebooks and pages: {build}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
