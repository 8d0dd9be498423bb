"""Recordings of Minecraft as of OpenAI's VPT: an mp4 and beside it a jsonl with a line for each frame.

Line i is what the player did when frame i was seen, so it leads to frame i + 1. Keys count by ``keyboard.keys``
(``key.keyboard.w``), the mouse by ``mouse.dx`` and ``dy``: 2400 of them turn the player once around.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from pipelines.data.limits import Limits, VideoError, check_bytes
from pipelines.footage.cutting import Picture
from pipelines.footage.digests import Hashed
from pipelines.footage.found import Found, Reel
from pipelines.footage.params import Vpt
from pipelines.footage.recordings import KEYS
from pipelines.footage.reels import VideoReel
from pipelines.footage.sources import absent, find_videos, noted, tables_of, told_of
from pipelines.textfile import TextError, lines_of, read_text, storable_text

DEGREES = 360 / 2400
"""That one unit of the mouse turns the player by."""
MOST_DEGREES = 10.0
"""Per frame: VPT's own bound on what a turn is told as; it is 1 here."""
COLUMNS = len(KEYS) + 2


def read_actions(path: Path) -> np.ndarray:
    """float32 [lines, 6]: W, A, S, D as 0 or 1, the mouse's dx and dy in units of 10 degrees.

    While a menu is open (``isGuiOpen``), the mouse moves a pointer and no key walks: those lines are zeros.

    Raises:
        VideoError: there is no such file, or a line is not an action.
    """
    if not path.is_file():
        raise VideoError("no_action_log", f"no {path.name} beside the video")
    rows = []
    try:
        lines = lines_of(read_text(path))
    except TextError as error:
        raise VideoError("bad_action_log", f"{path.name}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(_row(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            text = f"{path.name}:{number}: is no action ({type(error).__name__}: {error})"
            raise VideoError("bad_action_log", text) from None
    if not rows:
        raise VideoError("bad_action_log", f"{path.name}: is empty")
    return np.array(rows, np.float32)


def _row(step: dict) -> list[float]:
    row = [0.0] * COLUMNS
    if step.get("isGuiOpen"):
        return row
    for name in step["keyboard"]["keys"]:
        column = KEYS.get(name.removeprefix("key.keyboard."))
        if column is not None:
            row[column] = 1.0
    moved = [float(step["mouse"][name]) * DEGREES / MOST_DEGREES for name in ("dx", "dy")]
    if not all(map(math.isfinite, moved)):
        raise ValueError("mouse.dx or dy is not finite")
    row[len(KEYS) :] = moved
    return row


@dataclass(frozen=True)
class VptReel(VideoReel):
    """A recording, with which of its frames is shown at each time of the clips' grid."""

    log: np.ndarray = field(default_factory=lambda: np.zeros((0, COLUMNS), np.float32))
    rate: float = 20.0
    shown: list[int] = field(default_factory=list)

    def pictures(self) -> Iterator[Picture | None]:
        """See :class:`pipelines.footage.found.Reel`."""
        for number, picture in enumerate(self._sampled(0)):
            seconds = number / self.frame_rate if picture is None else picture.seconds
            self.shown.append(round(seconds * self.rate))
            yield picture

    def actions(self, start: int, num_frames: int) -> np.ndarray:
        """Row k: keys down on any line from frame k - 1 to before frame k, and the mean turn of these lines in [-1, 1].

        The first row is the line before its frame; zeros where the recording begins with it.
        """
        frames = self.shown[start : start + num_frames]
        held = np.zeros((num_frames, COLUMNS), np.float32)
        before = frames[0] - 1
        for row, frame in enumerate(frames):
            lines = self.log[max(0, before) : max(0, frame)]
            if len(lines):
                held[row, : len(KEYS)] = lines[:, : len(KEYS)].max(0)
                held[row, len(KEYS) :] = lines[:, len(KEYS) :].mean(0).clip(-1, 1)
            before = frame
        return held


def recordings(params: Vpt, frame_rate: float, limits: Limits, hashed: Hashed) -> Iterator[Found]:
    """The recordings below a folder.

    Raises:
        StageError: the folder or the captions file cannot be used.
    """
    root = Path(params.path)
    names = find_videos(root, "raw_video.source.vpt.path")
    tables = tables_of(params, names, "vpt")
    for place, name in enumerate(names, 1):
        told = told_of(params, tables, name)[0]
        digest, opened = partial(_digest, root / name, limits, hashed), partial(_open, root / name, frame_rate, limits)
        yield Found(storable_text(name), place, len(names), False, told, absent(params, name), digest, None, opened)
    yield from noted(tables, len(names))


def _digest(path: Path, limits: Limits, hashed: Hashed) -> str:
    check_bytes(path, limits)
    log = path.with_suffix(".jsonl")
    if not log.is_file():
        raise VideoError("no_action_log", f"no {log.name} beside the video")
    return hashlib.sha256(f"{hashed(path)} {hashed(log)}".encode()).hexdigest()


def _open(path: Path, frame_rate: float, limits: Limits, digest: str) -> Reel:
    return VptReel(path, digest, frame_rate, limits, log=read_actions(path.with_suffix(".jsonl")))
