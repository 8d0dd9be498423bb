"""A cache of the model hub as its own client lays it out: refs, snapshots by commit, and nothing to ask outside."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``HF_HUB_OFFLINE=1 HF_HUB_CACHE=<cache>`` in the environment of a new process."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def put(cache: Path, name: str, model: Path) -> None:
    """Lay the files of ``model`` into the cache under a hub name, as revision ``main``."""
    place = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(model, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs/main").write_text(COMMIT)
