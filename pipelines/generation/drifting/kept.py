"""Vectors of real clips in the spaces of the drift, encoded once.

The encoder is frozen: what it says of a clip that is not changed stays as it is, and so does what it says of views that
are drawn once for each clip. On a processor every clip is encoded by itself, which takes no longer than many at once
and makes its vectors, to the last bit, a function of that clip alone. So they can be kept, or not, without a trace: a
training that goes on with nothing kept is the one that was never interrupted, and no process needs to know what another
one keeps. On other devices all are encoded at once, every time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from pipelines.generation.drifting.features import FeatureSpaces, Vectors

MOST_BYTES = 256 << 20
"""Of vectors that are kept; those of further clips are computed at every visit."""


class KeptVectors:
    """Vectors of clips by a name of each, in the spaces of ``features``."""

    def __init__(self, features: FeatureSpaces, most_bytes: int = MOST_BYTES) -> None:
        self.features, self.left = features, most_bytes
        self._kept: dict[Hashable, Vectors] = {}

    @torch.no_grad()
    def __call__(self, names: Sequence[Hashable], clips: Callable[[int], Tensor], device: torch.device) -> Vectors:
        """Vectors [M V, N, D] of M names; ``clips(place)`` is what a name stands for, V clips [V, C, T, H, W] of it.

        The same name must always stand for the same clips.
        """
        places = range(len(names))
        if device.type != "cpu":
            return self.features(torch.cat([clips(place) for place in places]))
        found = [self._of(names[place], clips, place) for place in places]
        return {space: torch.cat([vectors[space] for vectors in found]) for space in found[0]}

    def _of(self, name: Hashable, clips: Callable[[int], Tensor], place: int) -> Vectors:
        if name in self._kept:
            return self._kept[name]
        vectors = {space: part.contiguous() for space, part in self.features(clips(place).clone()).items()}
        size = sum(part.numel() * part.element_size() for part in vectors.values())
        if size <= self.left:
            self.left -= size
            self._kept[name] = vectors
        return vectors
