"""The pixels of sampled pictures, as a footage stage takes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipelines.data.limits import Limits
from pipelines.data.video import sample_pictures


def sample_frames(
    path: Path, frame_rate: float, size: tuple[int, int], limits: Limits | None = None
) -> Iterator[np.ndarray | None]:
    """Pictures at a rate, resized to cover ``size`` (height, width) and cropped: uint8 [height, width, 3]."""
    for picture in sample_pictures(path, frame_rate, limits):
        yield None if picture is None else picture.cover(*size)
