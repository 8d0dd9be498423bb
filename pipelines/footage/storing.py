"""Storing one clip of the wanted form: its content key, the mp4 file and the catalog row."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.stored import read_stored
from pipelines.data.video import write_mp4
from pipelines.footage.params import Clip


@dataclass
class Made:
    """What a source gave: catalog rows, refused files, files looked at, and per clip the PSNR of its mp4 in dB.

    Of a source of files also the decisions on its clips, how many files had to be decoded (None: rendered), and what
    the source only names: counts by reason, and a row each as of refused files;
    and ``seen``: sums over the files that gave clips.
    """

    clips: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)
    num_files: int = 0
    fidelity: list[float] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    files_decoded: int | None = None
    absent: Counter[str] = field(default_factory=Counter)
    listed: list[dict[str, str]] = field(default_factory=list)
    seen: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """One clip before it is stored: its pixels, where they are from, and what is known about them."""

    frames: np.ndarray  # uint8 [T, H, W, 3]
    content_hash: str
    caption: str
    source: str
    start_seconds: float
    actions: np.ndarray | None = None  # float32 [T, 6]
    factors: Mapping[str, str] = field(default_factory=dict)


def content_hash(clip: Clip, **facts: Any) -> str:
    """SHA-256 of everything that shapes a clip's stored pixels: its form and the facts of its source."""
    text = json.dumps({"clip": clip.model_dump(), **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def psnr(frames: np.ndarray, stored: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 videos in dB; 100 where they are equal."""
    difference = np.subtract(frames, stored, dtype=np.float32).ravel()
    error = float(np.dot(difference, difference)) / len(difference)
    return float(min(100.0, 10 * np.log10(255.0**2 / max(error, 1e-12))))


def store(cut: Cut, clip: Clip, folder: Path) -> tuple[dict[str, Any], float]:
    """Write ``clips/<key>.mp4`` and read it back: the catalog row without its split, and the file's PSNR in dB.

    A caption known here becomes the file's title; footage is stored without, so that a caption may change.
    """
    key = f"clip-{cut.content_hash[:16]}"
    name = f"clips/{key}.mp4"
    title = {"title": cut.caption} if cut.caption else {}
    write_mp4(folder / name, cut.frames, clip.frame_rate, {**title, "comment": key}, clip.crf)
    row = {
        "key": key,
        "file": name,
        "caption": cut.caption,
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
    return row, psnr(cut.frames, read_stored(folder, row))
