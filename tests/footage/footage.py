"""Real files and parameters for the tests of sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.data.catalog import read_catalog, read_rejected
from pipelines.data.video import write_mp4
from pipelines.footage.params import RawVideoParams
from pipelines.footage.raw_video import make

CLIP = {"num_frames": 5, "height": 32, "width": 32, "frame_rate": 8.0, "crf": 10}
LIMITS = {
    "max_pixels": 100_000,
    "max_frames": 1000,
    "max_seconds": 60.0,
    "max_bytes": 1 << 20,
    "max_decode_seconds": 60.0,
}
SPLITS = {"validation": 0.25, "test": 0.25}
CUTTING = {"stride": 1.0, "shots": None, "buckets": None}
QUALITY = {"motion": None, "sharpness": None, "duplicate": None, "caption": {"min_words": 1}}
FOOTAGE = {"prompt_prefix": None, "cutting": CUTTING, "quality": QUALITY, "max_clips_per_video": None}


def footage(kind: str, clip: dict[str, Any] | None = None, **block: Any) -> RawVideoParams:
    """Parameters with one source of files; ``block`` states or changes its values."""
    source = {kind: {**FOOTAGE, "max_rejected_share": 0.0, "limits": LIMITS, **block}}
    return RawVideoParams.model_validate({"clip": clip or CLIP, "splits": SPLITS, "source": source})


def folder(path: Path, **block: Any) -> RawVideoParams:
    """Parameters of a folder of videos."""
    return footage("folder", path=str(path), **{"media": "videos", "captions": None, **block})


def run(params: RawVideoParams, root: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The stage; its catalog and its metrics."""
    make(params, root / "clips", root / "metrics.json", root / "plots")
    return read_catalog(root / "clips"), json.loads((root / "metrics.json").read_text())


def refused(root: Path) -> dict[str, str]:
    """Reason by file."""
    return {row["file"]: row["reason"] for row in read_rejected(root / "clips").to_dict("records")}


def frames(num_frames: int = 12, seed: int = 0) -> np.ndarray:
    """Frames whose grey level tells their number, over a pattern that tells the seed; uint8 [T, 48, 64, 3]."""
    pattern = np.random.default_rng(seed).integers(0, 30, (6, 8, 1))
    over_time = 20 + 200 * np.arange(num_frames)[:, None, None, None] / num_frames
    return (np.kron(pattern, np.ones((8, 8, 3)))[None] + over_time).astype(np.uint8)


def video(
    path: Path, num_frames: int = 12, frame_rate: float = 8.0, seed: int = 0, caption: str | None = "a thing"
) -> None:
    """A video of :func:`frames` with its caption beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, frames(num_frames, seed), frame_rate)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
