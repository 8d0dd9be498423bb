"""Shot boundaries: two neighbouring frames that share neither their colours nor their layout.

The distance of two frames is the mean of two numbers in [0, 1]: half the L1 distance of their colour histograms
(16 soft bins per channel), which motion within a shot hardly changes, and the change of a coarse 8 x 8 picture, which
tells apart two rooms of equal colours. A cut is a distance above a threshold that stands out from its neighbours in
time, so that fast motion, which lasts, is none. A dissolve is spread over frames and is not found.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from statistics import median
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image

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


class FrameLook(NamedTuple):
    """What a frame is compared by: [3, BINS] soft histograms, each row summing to 1; [SIDE, SIDE, 3] mean levels."""

    colors: np.ndarray
    layout: np.ndarray


@cache
def _first_bins(width: int) -> np.ndarray:
    """uint8 [width, 3]: the number of each channel's first bin."""
    return np.tile(np.arange(3, dtype=np.uint8) * BINS, (width, 1))


def _histograms(frame: np.ndarray) -> np.ndarray:
    """Smoothed, so that a small change of brightness moves little."""
    bins = (frame // (256 // BINS) + _first_bins(frame.shape[1])).ravel()
    counts = Image.frombuffer("L", (bins.size, 1), bins, "raw", "L", 0, 1).histogram()  # faster than numpy's
    counts = np.array(counts[: 3 * BINS], float).reshape(3, BINS)
    smooth = 2.0 * counts
    smooth[:, 1:] += counts[:, :-1]
    smooth[:, :-1] += counts[:, 1:]
    smooth[:, 0] += counts[:, 0]
    smooth[:, -1] += counts[:, -1]
    return smooth / smooth.sum(1, keepdims=True)


@cache
def _parts(size: int) -> np.ndarray:
    """[SIDE, size] that takes means over SIDE stretches."""
    ends = np.linspace(0, size, SIDE + 1).astype(int)
    found = np.zeros((SIDE, size))
    for part, (low, high) in enumerate(pairwise(ends)):
        found[part, low:high] = 1 / (high - low)
    return found


def look(frame: np.ndarray) -> FrameLook:
    """What is compared of a frame, uint8 [H, W, 3] with sides of at least 8."""
    step = max(1, min(frame.shape[:2]) // 64)
    frame = frame[::step, ::step]
    height, width = frame.shape[:2]
    rows = (_parts(height) @ frame.reshape(height, -1).astype(float)).reshape(SIDE, width, 3)
    return FrameLook(_histograms(frame), _parts(width) @ rows)


def distance(one: FrameLook, other: FrameLook) -> float:
    """How little two frames have in common: 0 (equal) to 1."""
    colors = np.abs(one.colors - other.colors).sum() / len(one.colors) / 2
    layout = np.abs(one.layout - other.layout).sum() / one.layout.size / LAYOUT
    return float((colors + min(1.0, layout)) / 2)


def _small(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of about 64 x 64 pixels for the whole of a frame of ``size`` (its middle, beyond 4:1)."""
    shape = min(2.0, max(0.5, (size[1] / size[0]) ** 0.5))
    return round(64 / shape), round(64 * shape)


def _may_cut(change: float | None, threshold: float) -> bool:
    return change is not None and change > threshold


def _stands_out(change: float | None, around: Sequence[float | None], threshold: float, ratio: float) -> bool:
    known = [one for one in around if one is not None]
    return change is not None and change > threshold and (not known or change > ratio * median(known))


def small(picture: Covering) -> np.ndarray:
    """A picture as its look is taken of."""
    return picture.cover(*_small(picture.size))


def boundaries(
    pictures: Iterator[Shown | None],
    threshold: float,
    ratio: float,
    shown: Callable[[Shown], np.ndarray] = small,
) -> Iterator[tuple[Shown | None, bool]]:
    """Each picture, and whether a shot begins with it; where it may, AROUND pictures late, to see it with what follows.

    Args:
        pictures: one per time, None where there is none (what is on both sides of a gap is not compared).
        threshold: least distance of a cut, 0 to 1.
        ratio: how many times the median of its neighbours' distances a cut is.
        shown: a picture as uint8 [H, W, 3] of about 64 x 64 pixels.
    """
    waiting: deque[tuple[Shown, float | None]] = deque()
    passed: deque[float | None] = deque(maxlen=AROUND)
    last: FrameLook | None = None

    def decided(at_least: int) -> Iterator[tuple[Shown, bool]]:
        """Those that are decided: by themselves, or with ``at_least`` so many behind them."""
        while waiting and (not _may_cut(waiting[0][1], threshold) or len(waiting) > at_least):
            picture, change = waiting.popleft()
            later = [other for _, other in itertools.islice(waiting, AROUND)]
            found = _stands_out(change, [*passed, *later], threshold, ratio)
            passed.append(change)
            yield picture, found

    for picture in pictures:
        if picture is None:
            yield from decided(0)
            passed.clear()
            last = None
            yield None, False
            continue
        frame = look(shown(picture))
        waiting.append((picture, None if last is None else distance(last, frame)))
        last = frame
        yield from decided(AROUND)
    yield from decided(0)
