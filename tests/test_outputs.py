"""Whole folders: nothing half written, and permissions as the user's umask says, whatever a library wrote with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from pipelines.outputs import follow_umask, whole_folder
from pipelines.training import state


@pytest.fixture(params=[0o022, 0o002, 0o027, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}


def test_weights_get_the_permissions_of_the_umask(tmp_path: Path, umask: int) -> None:
    with whole_folder(tmp_path / "checkpoint") as folder:
        (folder / "ema").mkdir()
        for place in (folder, folder / "ema"):
            save_file({"a": np.zeros(2, dtype=np.float32)}, place / "model.safetensors")
            (place / "config.json").write_text("{}")
        assert umask == 0o077 or len(modes(folder)) == 2  # the library still writes with 0600
    assert modes(tmp_path) == {0o666 & ~umask}


def test_resume_states_get_the_permissions_of_the_umask(tmp_path: Path, umask: int) -> None:
    state._write(tmp_path, 3, {"step": 3}, {"a": torch.zeros(2)})
    assert modes(tmp_path) == {0o666 & ~umask}


def test_what_is_copied_into_a_folder_gets_the_permissions_of_the_umask(tmp_path: Path, umask: int) -> None:
    """An autoencoder that DVC restored as a link is 0444: a copy in an export was 0644 where the umask says 0600."""
    (tmp_path / "cached/part").mkdir(parents=True)
    for name, mode in (("weights", 0o444), ("part/config", 0o644), ("run", 0o755)):
        (tmp_path / "cached" / name).write_text("x")
        (tmp_path / "cached" / name).chmod(mode)
    (tmp_path / "cached/part").chmod(0o755)
    with whole_folder(tmp_path / "out") as folder:
        shutil.copytree(tmp_path / "cached", folder / "copied")
    copied = tmp_path / "out/copied"
    assert {path.name: path.stat().st_mode & 0o777 for path in (copied, *copied.rglob("*"))} == {
        **{name: 0o666 & ~umask for name in ("weights", "config")},
        **{name: 0o777 & ~umask for name in ("copied", "part", "run")},
    }
    assert (tmp_path / "cached/weights").stat().st_mode & 0o777 == 0o444


def test_a_file_that_has_another_name_too_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    cached = tmp_path / "cached"
    cached.write_text("an object of DVC's cache")
    cached.chmod(0o400)
    (tmp_path / "folder/hard").hardlink_to(cached)
    (tmp_path / "folder/soft").symlink_to(cached)
    follow_umask(tmp_path / "folder")
    assert cached.stat().st_mode & 0o777 == 0o400


def test_what_ends_badly_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("first")
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("second")
        raise RuntimeError
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["out", "out/a"]
    assert (tmp_path / "out/a").read_text() == "first"
