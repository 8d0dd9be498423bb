"""Pictures out of clips: every frame of every clip by itself, of its latents or of its pixels.

:class:`Pictures` reads like the shards whose clips it cuts up, so whatever draws clips draws pictures. A clip's frames
do not follow one another: all clips come once, with frames of all places, before any comes again.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.catalog import read_catalog
from pipelines.data.shards import Shards
from pipelines.data.stored import FACTS, read_stored
from pipelines.data.video import VideoError
from pipelines.stage import StageError

CACHE_BYTES = 512 << 20
"""Most decoded pixels kept in memory; what lies beyond is decoded again."""


class Pictures(Shards):
    """A folder of latents, read by row of (clip, frame): ``latents`` are [C, 1, H, W] of one latent frame.

    With ``clips`` they are pixels of one frame in [-1, 1], [3, 1, H, W], of the clip of the same key.

    Raises:
        ContractError: as :class:`Shards`. StageError: a clip is not in ``clips``, or those are of several sizes.
    """

    def __init__(self, folder: Path, clips: Path | None = None) -> None:
        super().__init__(folder)
        self.clips, self._kept = clips, OrderedDict[str, np.ndarray]()
        counts = self._latent_frames() if clips is None else self._pixel_frames(clips)
        rows, self._frames = cut_up(counts)
        self.index = self.index.iloc[rows].reset_index(drop=True)
        if "num_frames" in self.index:
            self.index["num_frames"] = 1
        for name in ("_keys", "_shards", "_places"):
            whole = getattr(self, name)
            setattr(self, name, [whole[row] for row in rows])
        field = self.manifest.fields["latents"]
        shape = (field.shape[0], 1, *field.shape[2:]) if clips is None else (3, 1, *self.size)
        fields = {**self.manifest.fields, "latents": field.model_copy(update={"shape": shape})}
        self.manifest = self.manifest.model_copy(update={"fields": fields})

    def _latent_frames(self) -> np.ndarray:
        """Latent frames of every clip."""
        frames = self.manifest.fields["latents"].shape[1]
        if frames is not None:
            return np.full(len(self), frames)
        return 1 + (self.index["num_frames"].to_numpy() - 1) // self.manifest.autoencoder.temporal_stride

    def _pixel_frames(self, clips: Path) -> np.ndarray:
        """Frames of every clip, as the catalog of ``clips`` counts them."""
        catalog = read_catalog(clips).set_index("key")
        absent = [key for key in self._keys if key not in catalog.index]
        if absent:
            raise StageError(f"{clips}: {len(absent)} clips of {self.folder} are not there, first {absent[0]}.")
        own = catalog.loc[self._keys]
        sizes = sorted(set(zip(own["height"].tolist(), own["width"].tolist(), strict=True)))
        if len(sizes) > 1:
            raise StageError(
                f"{clips}: pictures of {len(sizes)} sizes, {sizes[0]} and {sizes[1]} among them; a keypatch_refiner of "
                "pixels takes one (raw_video.source.folder.cutting.buckets: null)."
            )
        self.size = sizes[0]
        self._files = own[[name for name in FACTS if name in own]]
        return own["num_frames"].to_numpy()

    def _sample(self, row: int, fields: tuple[str, ...], fetched: bytes | None) -> dict[str, Any]:
        wanted = fields if self.clips is None else tuple(name for name in fields if name != "latents")
        found = super()._sample(row, wanted, fetched) if wanted else {}
        frame = self._frames[row]
        if "latents" in wanted:
            found["latents"] = found["latents"][:, frame : frame + 1]
        elif "latents" in fields:
            pixels = self._decoded(self._keys[row])[frame].astype(np.float32) / 127.5 - 1.0
            found["latents"] = np.ascontiguousarray(pixels.transpose(2, 0, 1)[:, None])
        return found

    def _decoded(self, key: str) -> np.ndarray:
        """Pixels of a clip, uint8 [T, H, W, 3]."""
        if key not in self._kept:
            assert self.clips is not None
            clip = {**self._files.loc[key].to_dict(), "key": key}
            try:
                self._kept[key] = read_stored(self.clips, clip)
            except VideoError as error:
                file = self.clips / str(clip["file"])
                raise StageError(f"{file}: clip {key}: {error}; run raw_video again.") from None
            while len(self._kept) > 1 and len(self._kept) * self._kept[key].nbytes > CACHE_BYTES:
                self._kept.popitem(last=False)
        return self._kept[key]


def cut_up(counts: np.ndarray) -> tuple[list[int], list[int]]:
    """Clips and frames of all pictures of clips with so many frames: round r shows frame (clip + r) mod T of each."""
    rows, frames = [], []
    for turn in range(int(counts.max(initial=0))):
        own = np.flatnonzero(turn < counts)
        rows += own.tolist()
        frames += ((own + turn) % counts[own]).tolist()
    return rows, frames
