"""Shot boundaries: two neighbouring frames that share neither their colours nor their layout.

The distance of two frames is the mean of two numbers in [0, 1]: half the L1 distance of their colour histograms
(16 soft bins per channel), which motion within a shot hardly changes, and the change of a coarse 8 x 8 picture, which
tells apart two rooms of equal colours. A cut is a distance above a threshold that stands out from its neighbours in
time, so that fast motion, which lasts, is none. A dissolve is spread over frames and is not found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Protocol, TypeVar

import numpy as np

BINS = 16
SIDE = 8
AROUND = 2
"""Neighbours in time, before and after, that a cut must stand out from."""
LAYOUT = 64.0
"""Grey levels of mean change at which two layouts have nothing in common."""


class Covering(Protocol):
    """What can be shown at a size: see :class:`pipelines.data.picture.Picture`."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        ...

    def cover(self, height: int, width: int) -> np.ndarray:
        """uint8 [height, width, 3]."""
        ...


Shown = TypeVar("Shown", bound=Covering)


def _histograms(frame: np.ndarray) -> np.ndarray:
    """[3, BINS], each row summing to 1, smoothed so that a small change of brightness moves little."""
    counts = np.stack([np.bincount(frame[..., c].ravel() >> 4, minlength=BINS) for c in range(3)]).astype(float)
    padded = np.pad(counts, ((0, 0), (1, 1)), mode="edge")
    smooth = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return smooth / smooth.sum(1, keepdims=True)


def _layout(frame: np.ndarray) -> np.ndarray:
    """[SIDE, SIDE, 3] means of equal parts."""
    rows, columns = (np.linspace(0, size, SIDE + 1).astype(int)[:-1] for size in frame.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(frame.astype(np.int64), rows, 0), columns, 1)
    ones = np.add.reduceat(np.add.reduceat(np.ones((*frame.shape[:2], 1)), rows, 0), columns, 1)
    return sums / ones


def distance(frame: np.ndarray, other: np.ndarray) -> float:
    """How little two frames, uint8 [H, W, 3] with sides of at least 8, have in common: 0 (equal) to 1."""
    step = max(1, min(frame.shape[:2]) // 64)
    frame, other = frame[::step, ::step], other[::step, ::step]
    colors = np.abs(_histograms(frame) - _histograms(other)).sum(1).mean() / 2
    layout = np.abs(_layout(frame) - _layout(other)).mean() / LAYOUT
    return float((colors + min(1.0, layout)) / 2)


def _small(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of about 64 x 64 pixels for the whole of a frame of ``size`` (its middle, beyond 4:1)."""
    shape = min(2.0, max(0.5, (size[1] / size[0]) ** 0.5))
    return round(64 / shape), round(64 * shape)


def _stands_out(change: float | None, around: Sequence[float | None], threshold: float, ratio: float) -> bool:
    known = [one for one in around if one is not None]
    return change is not None and change > threshold and (not known or change > ratio * median(known))


def boundaries(pictures: Iterator[Shown | None], threshold: float, ratio: float) -> Iterator[tuple[Shown | None, bool]]:
    """Each picture, and whether a shot begins with it; AROUND pictures late, so that a cut is seen with what follows.

    Args:
        pictures: one per time, None where there is none (what is on both sides of a gap is not compared).
        threshold: least distance of a cut, 0 to 1.
        ratio: how many times the median of its neighbours' distances a cut is.
    """
    waiting: deque[tuple[Shown, float | None]] = deque()
    passed: deque[float | None] = deque(maxlen=AROUND)
    last: np.ndarray | None = None

    def decided() -> tuple[Shown, bool]:
        picture, change = waiting.popleft()
        later = [other for _, other in waiting]
        found = _stands_out(change, [*passed, *later], threshold, ratio)
        passed.append(change)
        return picture, found

    for picture in pictures:
        if picture is None:
            while waiting:
                yield decided()
            passed.clear()
            last = None
            yield None, False
            continue
        frame = picture.cover(*_small(picture.size))
        waiting.append((picture, None if last is None else distance(last, frame)))
        last = frame
        if len(waiting) > AROUND:
            yield decided()
    while waiting:
        yield decided()
