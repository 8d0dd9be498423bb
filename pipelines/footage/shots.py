"""Shot boundaries: two neighbouring frames that share neither their colours nor their layout.

The distance of two frames is the mean of two numbers in [0, 1]: half the L1 distance of their colour histograms
(16 soft bins per channel), which motion within a shot hardly changes, and the change of a coarse 8 x 8 picture, which
tells apart two rooms of equal colours. A cut takes both; a dissolve is spread over frames and is not found.
"""

from __future__ import annotations

import numpy as np

BINS = 16
SIDE = 8
LAYOUT = 64.0
"""Grey levels of mean change at which two layouts have nothing in common."""


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
