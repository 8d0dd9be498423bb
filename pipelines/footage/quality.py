"""What a clip is worth: motion, sharpness, a perceptual hash; and the decisions that the parameters' thresholds make.

The measures are of the stored pixels and are made once, when a clip is cut; the thresholds are applied afterwards, so
moving one decodes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from pipelines.footage.cutting_params import Quality
from pipelines.footage.lookalikes import SIDE, lookalikes

HASHED = 4
"""Frames of a clip that are hashed, from the first to the last."""
BLACK = 24
"""Levels up to which a bar is black, with the noise of its codec."""
LEAST = 16
"""Pixels that must be left between bars."""


def grey(frames: np.ndarray) -> np.ndarray:
    """Luma (BT.601) of uint8 [T, H, W, 3]: float32 [T, H, W] in 0..255."""
    return frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def motion(frames: np.ndarray) -> float | None:
    """Mean absolute change of the luma from frame to frame, in levels of 255; None for a single frame."""
    if len(frames) < 2:
        return None
    luma = grey(frames)
    return round(float(np.abs(luma[1:] - luma[:-1]).mean()), 4)


def sharpness(frames: np.ndarray) -> float:
    """Variance of the Laplacian (four neighbours) of the luma, the mean over up to four frames of the clip."""
    luma = grey(frames[_spread(len(frames))])
    centre = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return round(float((around - 4 * centre).var(axis=(1, 2)).mean()), 3)


def _spread(num: int) -> np.ndarray:
    return np.linspace(0, num - 1, HASHED).round().astype(int)


def inside_bars(frames: np.ndarray) -> np.ndarray:
    """Frames without the black bars around them, uint8 [T, H, W, 3]; as they are where they are black all over.

    Bars say nothing of what is shown, and the bits of them would be equal in all letterboxed footage.
    """
    lit = frames.max(0).max(-1) > BLACK  # many times as fast as over both at once
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    if not len(rows) or rows[-1] - rows[0] < LEAST or columns[-1] - columns[0] < LEAST:
        return frames
    return frames[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def perceptual_hash(frames: np.ndarray) -> str:
    """256 bits in hexadecimal: of four frames, which of 8 x 9 parts is brighter than its left neighbour (dHash).

    Sizes, codecs and file names leave it nearly as it is; other footage changes about half of the bits.
    """
    bits = []
    for frame in inside_bars(frames[_spread(len(frames))]):
        small = Image.fromarray(frame).convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX)
        parts = np.asarray(small, np.int16)
        bits.append(parts[:, 1:] > parts[:, :-1] + 1)
    return np.packbits(np.concatenate(bits)).tobytes().hex()


def measure(frames: np.ndarray) -> dict[str, Any]:
    """The measures of a clip, uint8 [T, H, W, 3], by the names of the catalog's columns without their prefix."""
    return {"motion": motion(frames), "sharpness": sharpness(frames), "hash": perceptual_hash(frames)}


def judge(quality: Quality, clips: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The decisions on each clip, by the names of ``JUDGED``: "kept", "refused" or "off"; its split refuses none yet.

    Args:
        quality: the thresholds.
        clips: catalog rows with ``quality_motion``, ``quality_sharpness`` and ``quality_hash``.

    Returns:
        Per clip the decisions, ``duplicate_of`` (a key or None) and ``kept``. A measure that is not defined (motion
        of a still picture) is not judged: "off". Duplicates are sought in the order of content hashes, so that names
        decide nothing, and only among clips that nothing else refuses.
    """
    decided = [_alone(quality, clip) for clip in clips]
    order = sorted(range(len(clips)), key=lambda place: (clips[place]["content_hash"], place))
    order = [place for place in order if "refused" not in decided[place].values()]
    twins: dict[int, str] = {}
    if quality.duplicate is not None and order:
        # Clips of one source differ by their times and are never duplicates of one another.
        hashes, sources = [clips[p]["quality_hash"] for p in order], [(clips[p]["source"],) for p in order]
        twin_of = lookalikes(hashes, sources, quality.duplicate.max_bits)
        for place, twin in zip(order, twin_of, strict=True):
            if twin is not None:
                twins[place] = clips[order[twin]]["key"]
    sought = set(order) if quality.duplicate is not None else set()
    for place, one in enumerate(decided):
        one["duplicate"] = "refused" if place in twins else "kept" if place in sought else "off"
        one["kept"] = "refused" not in one.values()
        one["duplicate_of"] = twins.get(place)
    return decided


def _alone(quality: Quality, clip: dict[str, Any]) -> dict[str, Any]:
    """The decisions that look at one clip only."""
    change, found = clip["quality_motion"], {}
    wanted = quality.motion
    if wanted is None or change is None:
        found["motion"] = "off"
    else:
        high = float("inf") if wanted.max_change is None else wanted.max_change
        found["motion"] = _word(wanted.min_change <= change <= high)
    clear = quality.sharpness
    found["sharpness"] = "off" if clear is None else _word(clip["quality_sharpness"] >= clear.min_variance)
    found["caption"] = "off" if quality.caption is None else "kept"  # without one, a file is not even decoded
    found["split"] = "kept"  # decided where the splits are
    return found


def _word(kept: bool) -> str:
    return "kept" if kept else "refused"
