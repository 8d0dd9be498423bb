"""A stage on a disk that refuses it: one line, not a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import SafetensorError

from pipelines.stage import refused_by_disk


def test_a_full_disk_is_told_in_a_line_whoever_wrote() -> None:
    with pytest.raises(OSError) as plain, Path("/dev/full").open("w") as stream:
        stream.write("x")
    told = refused_by_disk(plain.value)
    assert told is not None and "No space left on device" in told and "make room" in told
    # As safetensors says it. Never give it /dev/full: it renames its file over the device.
    library = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert refused_by_disk(library) == told


def test_a_place_without_permission_is_named() -> None:
    told = refused_by_disk(PermissionError(13, "Permission denied", "data/clips"))
    assert told is not None and told.startswith("data/clips: Permission denied.")
    assert refused_by_disk(ValueError("x")) is None and refused_by_disk(FileNotFoundError(2, "no", "a")) is None
