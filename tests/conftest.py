"""Shared by all tests: one thread (as the stages run), nothing of the user's own settings, DVC imported once."""

import gc
import os
import sys
import tempfile
from collections.abc import Iterator

import pytest

from dagster_dvc import resolved
from pipelines import drawing
from tests import forked

pytest_plugins = ["tests.costs"]

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("ACCELERATE_USE_CPU", "true")
os.environ.setdefault("MPLBACKEND", "agg")
gc.disable()  # until all modules are there
SETTINGS = tempfile.TemporaryDirectory(prefix="settings-")
os.environ["XDG_CONFIG_HOME"] = SETTINGS.name  # keys that a command makes, and DVC's settings, are not the user's own


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What modules made stays to the end: it is not looked through for garbage, neither meanwhile nor ever after."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def dvc_is_imported_once() -> Iterator[None]:
    """What asks DVC for a graph gets its answer from :mod:`tests.forked`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolved, "asked", forked.graph)
        yield


@pytest.fixture(autouse=True)
def accelerate_forgets() -> Iterator[None]:
    """In use every stage is a process of its own; accelerate keeps the first precision of a process for its life."""
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def drawings_end_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """In use a mistake in a drawing is a warning; a test must see it."""
    monkeypatch.setattr(drawing, "TOLERATED", (OSError,))


@pytest.fixture
def four_threads() -> Iterator[None]:
    """Torch has four threads, as on a larger machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)
