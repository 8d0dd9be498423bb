"""Decoded clips for training and encoding: checked before anything starts, kept in memory within a bound."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipelines.data.catalog import read_catalog
from pipelines.data.order import Order
from pipelines.data.stored import FACTS, read_stored
from pipelines.data.video import VideoError
from pipelines.latents.augmentation import changed, drawn
from pipelines.latents.params import Augmentation
from pipelines.models.geometry import latent_frames
from pipelines.stage import StageError

CACHE_BYTES = 2 << 30
"""Most decoded pixels kept in memory; clips beyond it are decoded again when they are wanted."""


def channels_first(frames: np.ndarray) -> Tensor:
    """uint8 [..., T, H, W, 3] to uint8 [..., 3, T, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, -4)))


def to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 of 0 to 255 to float32 in [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1.0)


def as_video(frames: np.ndarray) -> Tensor:
    """uint8 [..., T, H, W, 3] to float32 [..., 3, T, H, W] in [-1, 1]."""
    return to_unit_range(channels_first(frames))


def as_frames(video: Tensor) -> np.ndarray:
    """Inverse of :func:`as_video`, rounded."""
    pixels = video.detach().float().cpu().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return np.moveaxis(pixels.numpy(), -4, -1)


class Clips:
    """The clips of a folder by row of its catalog; at most ``cache_bytes`` of decoded pixels are kept in memory.

    Raises:
        StageError: there is no catalog, or no clip in it.
    """

    def __init__(self, folder: Path, cache_bytes: int = CACHE_BYTES) -> None:
        self.folder, self.cache_bytes = folder, cache_bytes
        self.catalog: pd.DataFrame = read_catalog(folder)
        if not len(self.catalog):
            raise StageError(
                f"{folder}: the catalog has no clips; run the stage raw_video with a source that has some."
            )
        # A row of a table takes as long to look up as a small clip to open.
        self._facts = {name: self.catalog[name].tolist() for name in FACTS if name in self.catalog}
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def rows(self, split: str) -> list[int]:
        """Catalog rows of a split.

        Raises:
            StageError: the split is empty.
        """
        found = np.flatnonzero(self.catalog["split"].to_numpy() == split).tolist()
        if not found:
            raise StageError(
                f"{self.folder / 'catalog.parquet'}: no clips in split {split}; raw_video decides the splits."
            )
        return found

    def require(self, temporal_stride: int, spatial_stride: int) -> None:
        """Check from the catalog alone that every clip fits the strides.

        Raises:
            StageError: naming the first clip that does not.
        """
        for key, frames, height, width in self.catalog[["key", "num_frames", "height", "width"]].itertuples(
            index=False
        ):
            try:
                latent_frames(int(frames), temporal_stride)
            except StageError as error:
                raise StageError(f"{self.folder}: clip {key}: {error}") from None
            if height % spatial_stride or width % spatial_stride:
                raise StageError(
                    f"{self.folder}: clip {key} is {height}x{width} pixels, but this autoencoder takes multiples of "
                    f"{spatial_stride}; change the clip size of raw_video."
                )

    def key(self, row: int) -> str:
        """Key of a catalog row."""
        return str(self.catalog["key"].iloc[row])

    def frames(self, row: int) -> np.ndarray:
        """Decoded pixels of a clip, uint8 [T, H, W, 3].

        Raises:
            StageError: the file cannot be decoded, or is not what the catalog says.
        """
        known = self._kept.get(row)
        if known is not None:
            return known
        entry = {name: column[row] for name, column in self._facts.items()}
        try:
            decoded = read_stored(self.folder, entry)
        except VideoError as error:
            raise StageError(
                f"{self.folder / entry['file']}: clip {entry['key']}: {error}; run raw_video again."
            ) from None
        stated = (int(entry["num_frames"]), int(entry["height"]), int(entry["width"]), 3)
        if decoded.shape != stated:
            raise StageError(
                f"{self.folder / entry['file']}: decodes to {list(decoded.shape)}, the catalog states {list(stated)}; "
                "run raw_video again."
            )
        self._keep(row, decoded)
        return decoded

    def _keep(self, row: int, decoded: np.ndarray) -> None:
        with self._lock:  # several threads read
            if row not in self._kept:
                self._kept[row] = decoded
                self._bytes += decoded.nbytes
            while self._bytes > self.cache_bytes and self._kept:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def videos(self, rows: Sequence[int], batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
        """(rows, video [B, 3, T, H, W]) in order, in batches of clips of one size."""
        sizes = self.catalog[["num_frames", "height", "width"]].to_numpy()
        batch: list[int] = []
        for row in rows:
            if batch and (len(batch) == batch_size or (sizes[row] != sizes[batch[0]]).any()):
                yield batch, as_video(np.stack([self.frames(one) for one in batch]))
                batch = []
            batch.append(row)
        if batch:
            yield batch, as_video(np.stack([self.frames(one) for one in batch]))


class FrameGroups:
    """Training batches of frame groups: each sample is one group of one clip, chosen by (seed, step) alone.

    An epoch shows every clip once, in an order made from (seed, epoch), each by one group drawn for it. The group of
    the first frame is that frame repeated, as in :func:`pipelines.models.autoencoder.stack`. Clips of different sizes
    lie in different buckets, and a batch comes from one.

    Args:
        clips, rows: where from.
        frames: of a group.
        batch_size, seed: of the order.
        augmentation: random changes of the pixels; None: none.
    """

    def __init__(
        self,
        clips: Clips,
        rows: Sequence[int],
        frames: int,
        batch_size: int,
        seed: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.clips, self.frames, self.seed, self.augmentation = clips, frames, seed, augmentation
        self.lengths = clips.catalog["num_frames"].to_numpy()
        found, which = np.unique(self._forms(np.asarray(rows)), axis=0, return_inverse=True)
        buckets = [np.asarray(rows)[which == number] for number in range(len(found))]
        self.order = Order(buckets, batch_size, seed, self._epoch)

    def _forms(self, rows: np.ndarray) -> np.ndarray:
        """What samples must share to lie in one batch, [N, any]."""
        return self.clips.catalog[["height", "width"]].to_numpy()[rows]

    def _epoch(self, generator: np.random.Generator, rows: np.ndarray) -> np.ndarray:
        """[N, 2]: catalog row and group number."""
        rows = generator.permutation(rows)
        groups = 1 + (self.lengths[rows] - 1) // self.frames
        return np.stack([rows, generator.integers(0, groups)], axis=1)

    def keys(self, step: int) -> list[str]:
        """Clip keys of the global batch of a step, in order."""
        return [self.clips.key(row) for row in self.order.batch(step)[:, 0].tolist()]

    def _group(self, row: int, group: int, start: int) -> np.ndarray:
        """A group of the clip without its first ``start`` frames."""
        frames = self.clips.frames(row)[start:]
        if group == 0:
            return np.repeat(frames[:1], self.frames, axis=0)
        return frames[1 + (group - 1) * self.frames : 1 + group * self.frames]

    def _spare(self, row: int, group: int) -> int:
        """Frames that the clip can lose at its start while the group stays whole."""
        return int(self.lengths[row]) - 1 - group * self.frames

    def variants(self, place: int, steps: int) -> list[Tensor]:
        """A sample of the first batch [3, frames, H, W], as it is in the clip and as the first steps would show it."""
        row, group = self.order.batch(0)[place].tolist()
        plain = as_video(self._group(row, group, 0))
        return [plain, *(self._video(step, place, row, group) for step in range(steps))]

    def _video(self, step: int, place: int, row: int, group: int) -> Tensor:
        if self.augmentation is None:
            return as_video(self._group(row, group, 0))
        change = drawn(self.augmentation, (self.seed, step, place), self._spare(row, group))
        return changed(as_video(self._group(row, group, change.start)), change)

    def read(self, step: int, start: int, stop: int) -> dict[str, Any]:
        """``video`` [B, 3, frames, H, W] in [-1, 1] of samples [start, stop) of the global batch of a step."""
        samples = list(enumerate(self.order.batch(step).tolist()))[start:stop]
        return {"video": torch.stack([self._video(step, place, *sample) for place, sample in samples])}
