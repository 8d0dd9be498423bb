"""Training batches for autoencoders that treat a clip's first frame in a way of their own: windows, not groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.latents.clips import Clips, FrameGroups
from pipelines.latents.params import Augmentation


class Windows(FrameGroups):
    """As :class:`FrameGroups`, but a sample is a window of consecutive frames that begins anywhere in its clip.

    Args:
        frames: of a window; of a shorter clip (a picture has one frame) the most that fits its stride.
        temporal_stride: windows have 1 mod so many frames.
    """

    def __init__(
        self,
        clips: Clips,
        rows: Sequence[int],
        frames: int,
        temporal_stride: int,
        batch_size: int,
        seed: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        lengths = clips.catalog["num_frames"].to_numpy()
        self.reach = np.minimum(frames, 1 + (lengths - 1) // temporal_stride * temporal_stride)
        super().__init__(clips, rows, frames, batch_size, seed, augmentation)

    def _forms(self, rows: np.ndarray) -> np.ndarray:
        return np.column_stack([super()._forms(rows), self.reach[rows]])

    def _epoch(self, generator: np.random.Generator, rows: np.ndarray) -> np.ndarray:
        """[N, 2]: catalog row and first frame."""
        rows = generator.permutation(rows)
        return np.stack([rows, generator.integers(0, 1 + self.lengths[rows] - self.reach[rows])], axis=1)

    def _group(self, row: int, group: int, start: int) -> np.ndarray:
        return self.clips.frames(row)[group : group + int(self.reach[row])]

    def _spare(self, row: int, group: int) -> int:
        """None: a window begins anywhere already."""
        return 0
