"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def numbers_below_1e_38() -> None:
    """A stage may have made them 0 in this process, and hypothesis refuses to work without them."""
    torch.set_flush_denormal(False)


@pytest.fixture
def tmp_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for one test, instead of the user's (which keeps the features that are costly)."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("WSFP_CACHE", str(folder))
    return folder
