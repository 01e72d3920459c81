"""What every test shares: one thread, no network, and the default model, which is read once."""

from __future__ import annotations

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")

import pytest
import torch

import layerlens as ll

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Let no search for garbage go through all modules and tests again; they stay anyway."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def default_model() -> ll.LensModel:
    """Not to be changed; where it has not been fetched, the error says how."""
    return ll.load()
