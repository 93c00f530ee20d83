"""Run directories: what a run was (config, seed, versions, revision) and its metrics.

A folder holds ``config.json``, ``metrics.jsonl`` (one JSON object a line) and weights as safetensors.  A folder belongs
to one config and seed: the same run may be started again in it, which resumes, another one is refused.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import torch

from wsfp_helpers.common.configs import differences, plain
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import CONFIG, LOCK, append_row, read_json, read_whole_rows, write_json
from wsfp_helpers.common.machine import machine, revision, versions

METRICS = "metrics.jsonl"


def start_run(folder: str | Path, config: object, seed: int = 0) -> Path:
    """Make ``folder`` the directory of a run of ``config`` (a dataclass or mapping), or find that it is already.

    Writes ``config.json`` with seed, versions, revision, machine, threads and date.

    Raises:
        InputError: The folder holds another run (the first difference is named), or files but no run.
    """
    folder = Path(folder)
    wanted = {"seed": seed, "config": plain(config)}
    if (folder / CONFIG).exists():
        found = read_json(folder / CONFIG)
        found = found if isinstance(found, Mapping) else {}
        if differing := differences({key: found.get(key) for key in wanted}, wanted):
            key, old, new = differing[0]
            raise InputError(
                f"{folder} holds a run with {key} = {old!r}, this one has {new!r}: choose another folder, or remove "
                f"this one to start again"
            )
        return folder
    if folder.exists() and (not folder.is_dir() or any(each.name != LOCK for each in folder.iterdir())):
        raise InputError(f"{folder} exists and is not the folder of a run (it has no {CONFIG}): choose another folder")
    date = datetime.now().astimezone().isoformat("T", "seconds")
    about = {
        "revision": revision(), "machine": machine(), "threads": torch.get_num_threads(), "date": date,
        "versions": versions(),
    }  # fmt: skip
    write_json(folder / CONFIG, wanted | about)
    return folder


def append_metrics(folder: str | Path, row: Mapping[str, object]) -> None:
    """Add one line to ``metrics.jsonl``, on disk when this returns; raises :class:`InputError` when it cannot be."""
    append_row(Path(folder) / METRICS, plain(row))


def read_metrics(folder: str | Path) -> list[dict]:
    """All lines of ``metrics.jsonl``; of lines with the same ``step``, which a resumed run repeats, the last counts."""
    rows: dict[str, dict] = {}
    for number, row in enumerate(read_whole_rows(Path(folder) / METRICS, "metrics of a run")):
        key = repr(row.get("step", ("line", number)))
        rows.pop(key, None)
        rows[key] = row
    return list(rows.values())
