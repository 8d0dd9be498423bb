"""Recordings of games: folders of numbered frames with a log of the keys that were down.

A folder holds ``frame_0000.png``, ``frame_0001.png``, … and, named by the parameters, a csv of ``key, time, frame``:
one row per key and frame at which it is down. A missing number is a gap in time, cut around and never filled.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.limits import Limits, VideoError
from pipelines.data.picture import Picture
from pipelines.data.resample import nearest_in_time
from pipelines.data.stills import read_picture
from pipelines.litter import walk
from pipelines.stage import file_digest

NAME = re.compile(r"frame_(\d{1,9})\.(?:png|jpe?g)", re.IGNORECASE)
KEYS = {"w": 0, "a": 1, "s": 2, "d": 3}
"""Column of each key in the actions; the mouse's two columns follow and are 0, because such a log has no mouse."""
COLUMNS = ("key", "time", "frame")


def find_recordings(root: Path) -> list[str]:
    """Folders of a tree that hold numbered frames, as sorted posix paths relative to it ("." for the root itself)."""
    found = []
    for folder, inside, files in walk(root):
        inside[:] = [name for name in inside if not name.startswith(".")]
        if any(NAME.fullmatch(name) for name in files):
            found.append(folder.relative_to(root).as_posix())
    return sorted(found)


def numbered_frames(folder: Path) -> dict[int, Path]:
    """The frames by number, rising.

    Raises:
        VideoError: two files have one number.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = NAME.fullmatch(path.name)
        if match is None:
            continue
        other = found.setdefault(int(match[1]), path)
        if other is not path:
            raise VideoError("bad_frames", f"{other.name} and {path.name} have one number")
    return dict(sorted(found.items()))


def read_log(path: Path) -> dict[int, set[int]]:
    """Columns of :data:`KEYS` that are down, by frame number; keys other than W A S D are passed over.

    Raises:
        VideoError: there is no such file, or a line is not key, time, frame.
    """
    if not path.is_file():
        raise VideoError("no_action_log", f"no {path.name} beside the frames")
    down: dict[int, set[int]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            names = list(COLUMNS)
            for row in reader:
                cells = [cell.strip() for cell in row]
                if not any(cells):
                    continue
                if sorted(cell.lower() for cell in cells) == sorted(COLUMNS):
                    names = [cell.lower() for cell in cells]
                    continue
                line = dict(zip(names, cells, strict=True))
                column = KEYS.get(line["key"].lower())
                if column is not None:
                    down.setdefault(int(line["frame"]), set()).add(column)
                float(line["time"])
    except (ValueError, csv.Error):
        raise VideoError("bad_action_log", f"{path.name}:{reader.line_num}: is not key, time, frame") from None
    return down


@dataclass(frozen=True)
class Recording:
    """The frames of a recording on the clips' time grid: per time the frame number, or None where there is none."""

    frames: dict[int, Path]
    grid: list[int | None]
    down: dict[int, set[int]] | None
    limits: Limits
    start_seconds: float = 0.0

    def pictures(self) -> Iterator[Picture | None]:
        """One per time of the grid."""
        for number in self.grid:
            yield None if number is None else read_picture(self.frames[number], self.limits)

    def facts(self, start: int, num_frames: int) -> dict[str, Any]:
        """The frames and actions of a clip: a recording may grow without changing the clips that it had."""
        files = [self.frames[number] for number in self.grid[start : start + num_frames] if number is not None]
        held = self.actions(start, num_frames)
        return {"frames": [file_digest(path) for path in files], "actions": None if held is None else held.tolist()}

    def actions(self, start: int, num_frames: int) -> np.ndarray | None:
        """float32 [num_frames, 6]: keys that were down on the way to each frame from the one before it on the grid.

        The first frame has the keys of its own number: what led to it is not in the clip.
        """
        if self.down is None:
            return None
        held = np.zeros((num_frames, 6), np.float32)
        before: int | None = None
        for row, number in enumerate(self.grid[start : start + num_frames]):
            assert number is not None  # a clip has no gap
            for passed in range(number if before is None else before + 1, number + 1):
                held[row, list(self.down.get(passed, ()))] = 1
            before = number
        return held


def open_recording(folder: Path, log: str | None, rates: tuple[float, float], limits: Limits) -> Recording:
    """A recording on the time grid of the clips.

    Args:
        folder: holds the frames.
        log: name of the action log in it, or None.
        rates: frames per second of the recording, and of the clips.
        limits: on frames and seconds of the whole, and pixels and bytes of each frame.

    Raises:
        VideoError: the folder or its log cannot be used.
    """
    frames = numbered_frames(folder)
    first, last = min(frames), max(frames)
    if len(frames) > limits.max_frames or (last - first) / rates[0] > limits.max_seconds:
        raise VideoError("too_long", f"more than {limits.max_frames} frames or {limits.max_seconds:g} s")
    timed = (((number - first) / rates[0], number) for number in frames)
    grid = list(nearest_in_time(timed, rates[1]))
    return Recording(frames, grid, None if log is None else read_log(folder / log), limits)
