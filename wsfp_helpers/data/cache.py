"""Where downloads and computed tables live: never inside the user's data folder."""

import os
from pathlib import Path

import pooch


def cache_dir() -> Path:
    """Folder of everything wsfp downloads or computes once: ``$WSFP_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("WSFP_CACHE") or pooch.os_cache("wsfp"))


def data_dirs() -> list[Path]:
    """Folders searched for data sets, in order: ``$WSFP_DATA`` when it is set, then :func:`cache_dir`."""
    named = os.environ.get("WSFP_DATA")
    return [*([Path(named)] if named else []), cache_dir()]
