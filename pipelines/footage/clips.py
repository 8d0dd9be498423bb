"""Storing one clip of the wanted form: the mp4 file and its catalog row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.video import read_clip, write_mp4
from pipelines.footage.params import Clip


@dataclass
class Made:
    """What a source gave: catalog rows, refused files, files looked at, and per clip the PSNR of its mp4 in dB."""

    clips: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)
    num_files: int = 0
    fidelity: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Cut:
    """One clip before it is stored: its pixels, where they are from, and what is known about them."""

    frames: np.ndarray  # uint8 [T, H, W, 3]
    key: str
    content_hash: str
    caption: str
    source: str
    start_seconds: float
    actions: np.ndarray | None = None  # float32 [T, 6]
    factors: Mapping[str, str] = field(default_factory=dict)


def psnr(frames: np.ndarray, stored: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 videos in dB; 100 where they are equal."""
    error = np.mean((frames.astype(np.float32) - stored.astype(np.float32)) ** 2)
    return float(min(100.0, 10 * np.log10(255.0**2 / max(float(error), 1e-12))))


def store(cut: Cut, clip: Clip, split: str, folder: Path) -> tuple[dict[str, Any], float]:
    """Write ``clips/<key>.mp4`` and read it back: the catalog row, and the PSNR of the file in dB."""
    name = f"clips/{cut.key}.mp4"
    write_mp4(folder / name, cut.frames, clip.frame_rate, {"title": cut.caption, "comment": cut.key}, clip.crf)
    fidelity = psnr(cut.frames, read_clip(folder / name))
    row = {
        "key": cut.key,
        "file": name,
        "caption": cut.caption,
        "split": split,
        "num_frames": clip.num_frames,
        "height": clip.height,
        "width": clip.width,
        "frame_rate": clip.frame_rate,
        "source": cut.source,
        "start_seconds": cut.start_seconds,
        "end_seconds": cut.start_seconds + clip.num_frames / clip.frame_rate,
        "content_hash": cut.content_hash,
        "actions": None if cut.actions is None else cut.actions.tolist(),
        **cut.factors,
    }
    return row, fidelity


def even_share(num: int, share: float) -> Sequence[bool]:
    """Mark ``share`` of a series, evenly spread; a longer series starts with the marks of the shorter one."""
    return [int((index + 1) * share + 1e-9) > int(index * share + 1e-9) for index in range(num)]
