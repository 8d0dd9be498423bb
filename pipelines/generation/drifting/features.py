"""The feature spaces of the drift: maps of the frozen encoder at places, statistics of a clip, the latents themselves.

A space is a name, a weight and vectors [M, N, D] of M clips at N places; statistics have one place. Places are counted
row by row over (frame, row, column) of their grid. Families are averages over their spaces: a family with many maps
weighs as much as its weight says, not as many times.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from pipelines.generation.drifting.params import Features
from pipelines.models.feature_list import at_rest, clip_features, reads_change, window_means, windows
from pipelines.stage import StageError

Vectors = Mapping[str, Tensor]
"""Name of a space to [M, N, D]."""


class Encoder(Protocol):
    """A frozen network with maps by layer: :class:`pipelines.models.latent_mae.LatentMae`, or one of pictures."""

    @property
    def layers(self) -> list[str]:
        """Names of the layers whose maps there are."""
        ...

    def maps(self, latents: Tensor, layers: Collection[str], /) -> dict[str, Tensor]:
        """Maps [B, D, T', H', W'] after some layers."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights."""
        ...


@dataclass(frozen=True)
class Space:
    """What the objective must know of a space beforehand.

    Attributes:
        weight: within the whole drift; those of all spaces sum to 1.
        grid: (T', H', W') of its places; None where it has one for the whole clip.
        locations: places that a problem looks at.
    """

    name: str
    weight: float
    grid: tuple[int, int, int] | None
    locations: int


class FeatureSpaces:
    """Vectors of latents in every space of the params.

    Args:
        encoder: frozen; gradients pass through it to the latents.

    Raises:
        StageError: the encoder has no such layer or statistic.
    """

    def __init__(self, params: Features, encoder: Encoder) -> None:
        self.params, self.encoder = params, encoder
        assert isinstance(encoder, nn.Module)
        encoder.eval().requires_grad_(False)
        self.layers = set(params.maps.layers) if params.maps else set()
        self.statistics: dict[str, list[str]] = {}
        for name in params.statistics.names if params.statistics else ():
            self.statistics.setdefault(name.rpartition("_")[0], []).append(name)
        known = encoder.layers
        for layer in (*self.layers, *(layer for layer in self.statistics if layer != "input")):
            if layer not in known:
                raise StageError(
                    f"drift.features names the layer {layer!r}; this encoder has {', '.join(known)} (and input)."
                )

    # ---- what there is ----

    def spaces(self, shape: tuple[int, int, int, int]) -> list[Space]:
        """The spaces of latents of this shape (C, T, H, W).

        Raises:
            StageError: a statistic does not exist, or a window is larger than its map.
        """
        with torch.no_grad():
            found = self(self._empty(shape))
        listed = []
        for (family, weight, locations), names in self._families(found).items():
            for name in names:
                grid = None if family == "statistics" else self._grid(name, shape)
                listed.append((name, weight / len(names), grid, locations))
        total = sum(weight for _, weight, _, _ in listed)
        return [Space(name, weight / total, grid, locations) for name, weight, grid, locations in listed]

    def _empty(self, shape: tuple[int, int, int, int]) -> Tensor:
        return torch.zeros(1, *shape, device=next(self.encoder.parameters()).device)

    def _families(self, found: Vectors) -> dict[tuple[str, float, int], list[str]]:
        params, families = self.params, {}
        for family, block in (("maps", params.maps), ("statistics", params.statistics), ("latents", params.latents)):
            if block is not None:
                names = [name for name in found if name.startswith(f"{family}/")]
                families[family, block.weight, getattr(block, "locations", 1)] = names
        return families

    def _grid(self, name: str, shape: tuple[int, int, int, int]) -> tuple[int, int, int]:
        window = int(name.rpartition("_k")[2])
        frames, height, width = shape[1:]
        if name.startswith("maps/"):
            layer = name.removeprefix("maps/").rpartition("_k")[0]
            with torch.no_grad():
                frames, height, width = self.encoder.maps(self._empty(shape), [layer])[layer].shape[2:]
        return frames, height // window, width // window

    # ---- vectors ----

    def __call__(self, latents: Tensor) -> dict[str, Tensor]:
        """Vectors [M, N, D] of latents [M, C, T, H, W] by the name of their space."""
        wanted = self.layers | (self.statistics.keys() - {"input"})
        maps = self.encoder.maps(latents, wanted) if wanted else {}
        found: dict[str, Tensor] = {}
        for layer in self.params.maps.layers if self.params.maps else ():
            for size in self._windows(self.params.maps, layer, maps[layer]):  # type: ignore[arg-type]
                found[f"maps/{layer}_k{size}"] = window_means(maps[layer], size)
        found |= self._clip_statistics(latents, {**maps, "input": latents})
        block = self.params.latents
        for size in self._windows(block, "latents", latents) if block else ():
            cells = windows(latents, size)
            found[f"latents/input_k{size}"] = cells.movedim(1, -2).flatten(1, 3).flatten(2)
        return found

    def _windows(self, block: object, name: str, features: Tensor) -> Sequence[int]:
        sizes: Sequence[int] = block.windows  # type: ignore[attr-defined]
        if max(sizes) > min(features.shape[-2:]):
            raise StageError(
                f"drift.features: a window of {max(sizes)} is larger than the map of {name}, "
                f"{list(features.shape[-2:])}."
            )
        return sizes

    def _clip_statistics(self, latents: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        still = [layer for layer, names in self.statistics.items() if reads_change(layer, names)]
        rests = self._at_rest(latents, still)
        found = {}
        for layer, names in self.statistics.items():
            pooled = clip_features(maps[layer], rests.get(layer), layer, names)
            missing = [name for name in names if name not in pooled]
            if missing:
                raise StageError(
                    f"drift.features.statistics: no {missing[0]!r}; there are mean, std, max, moving, trajectory and "
                    f"path of {', '.join(self.encoder.layers)} and input."
                )
            found |= {f"statistics/{name}": pooled[name][:, None] for name in names}
        return found

    def _at_rest(self, latents: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        if not layers:
            return {}
        still = at_rest(latents)
        inside = [layer for layer in layers if layer != "input"]
        return {**(self.encoder.maps(still, inside) if inside else {}), "input": still}


# ---- places -------------------------------------------------------------------------------------------------------


def missing_places(mask: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Which places of a grid [B, N] hold something that ``mask`` [B, T] (or [B, T, H, W]) does not give."""
    if mask.dim() == 4:
        return nn.functional.adaptive_max_pool3d((~mask).float()[:, None], grid).flatten(1) > 0
    span = mask.shape[1] / grid[0]
    frame = torch.arange(mask.shape[1], device=mask.device)
    part = (frame / span).long().clamp(max=grid[0] - 1)
    missing = torch.zeros(len(mask), grid[0], dtype=torch.bool, device=mask.device)
    missing.scatter_reduce_(1, part.expand_as(mask), ~mask, "amax")
    return missing.repeat_interleave(grid[1] * grid[2], 1)


def picked(scores: Tensor, allowed: Tensor, count: int) -> Tensor:
    """``count`` of the allowed places [B, N] by lowest score, [B, count]; from the first again where they are fewer."""
    order = scores.masked_fill(~allowed, torch.inf).argsort(dim=1, stable=True)
    number = allowed.sum(1, keepdim=True).clamp(min=1)
    return order.gather(1, torch.arange(count, device=scores.device)[None] % number)


def at(vectors: Tensor, places: Tensor) -> Tensor:
    """Vectors [B, M, N, D] at places [B, L] of each problem, as the drift takes them: [L, B, M, D]."""
    problems, count, total, width = vectors.shape
    first = torch.arange(problems * count, device=places.device).view(problems, count) * total
    return nn.functional.embedding(first + places.T[:, :, None], vectors.reshape(-1, width))
