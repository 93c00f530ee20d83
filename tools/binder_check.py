"""Does the course fit Binder? JupyterLab and a kernel for each notebook, on one core with one thread, and their memory.

usage: python -m tools.binder_check [NOTEBOOK NOTEBOOK ...]   by default notebooks 00 and 04

The notebooks are run to their ends one after the other, and no kernel is shut down, as a student leaves them.  Prints
the largest resident memory of JupyterLab and all kernels together (shared pages count for each); exits with 1 when it
is over Binder's limit of 2 GB.  mybinder.org guarantees 450 MB and ends what takes more than 2 GB.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tools.run_notebooks import CELL_TIMEOUT, children_memory
from wsfp_helpers.common.memory import PeakMemory

ROOT = Path(__file__).parents[1]
LIMIT = 2_000_000_000
"""Bytes that Binder lets a user take."""
DEFAULT = [ROOT / "notebooks" / f"{name}.ipynb" for name in ("00_start_here", "04_fcams")]
LAB = ["--no-browser", "--port=0", "--ServerApp.token=", "--allow-root"]


def measure(notebooks: list[Path]) -> int:
    """Bytes that JupyterLab and the kernels of the notebooks take together, at most."""
    with PeakMemory(children_memory) as memory, contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        with (Path(folder) / "lab.log").open("w") as log:
            lab = subprocess.Popen([sys.executable, "-m", "jupyterlab", *LAB], cwd=ROOT, stdout=log, stderr=log)
        stack.callback(lab.wait)
        stack.callback(lab.terminate)
        for path in notebooks:
            resources = {"metadata": {"path": str(path.parent)}}
            client = NotebookClient(
                nbformat.read(path, as_version=4), timeout=CELL_TIMEOUT, kernel_name="python3", resources=resources
            )
            stack.enter_context(client.setup_kernel())
            for index, cell in enumerate(client.nb.cells):
                client.execute_cell(cell, index)
            time.sleep(1)
            print(f"after {path.stem}: at most {memory.most / 1e6:.0f} MB together", flush=True)
        if lab.poll() is not None:
            raise SystemExit("JupyterLab stopped by itself")
    return memory.most


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, default=DEFAULT)
    notebooks = parser.parse_args().notebooks
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return measure(notebooks) > LIMIT


if __name__ == "__main__":
    sys.exit(main())
