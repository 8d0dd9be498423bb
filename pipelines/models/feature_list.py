"""Feature vectors from feature maps: the multi-scale, multi-location list phi_j of the drifting loss (seed C, C.7).

A map is [B, C, *space] with space = (H, W) or (T, H, W). Places are counted row-major over all of ``space``;
windows are k x k over the last two axes, without overlap.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

VARIANCE_FLOOR = 1e-6
MOVING_POWER = 3


def spread(values: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """sqrt(max(var, 1e-6)) with the population variance over ``dims``; its gradient stays finite at var = 0."""
    variance = (values - values.mean(dims, keepdim=True)).square().mean(dims)  # torch.var is ten times slower here
    return variance.clamp_min(VARIANCE_FLOOR).sqrt()


def places(count: int, most: int) -> list[int]:
    """Up to ``most`` of ``count`` places: unique(round(linspace(0, count - 1, most)))."""
    return torch.linspace(0, count - 1, most, dtype=torch.float64).round().long().unique().tolist()


def windows(features: Tensor, size: int) -> Tensor:
    """[B, C, ..., H, W] -> [B, C, ..., H // size, W // size, size**2]; a rest at the border is cut off."""
    height, width = (length // size * size for length in features.shape[-2:])
    cells = features[..., :height, :width].unflatten(-1, (-1, size)).unflatten(-3, (-1, size))
    return cells.transpose(-3, -2).flatten(-2)


def window_means(features: Tensor, size: int) -> Tensor:
    """Means of the :func:`windows` of maps [B, C, T, H, W], window by window: [B, N, C]."""
    height, width = (length // size * size for length in features.shape[-2:])
    cells = features[..., :height, :width].movedim(1, -1)
    if size > 1:
        cells = cells.unflatten(3, (-1, size)).unflatten(2, (-1, size)).mean((3, 5))
    return cells.flatten(1, 3)


def at_places(features: Tensor, name: str, most: int) -> dict[str, Tensor]:
    """``{name}_loc_jjjj``: the vectors [B, C] at up to ``most`` places."""
    flat = features.flatten(2)
    return {f"{name}_loc_{place:04d}": flat[:, :, place] for place in places(flat.shape[2], most)}


def map_features(features: Tensor, name: str, most: int, window_sizes: Sequence[int] = (2, 4)) -> dict[str, Tensor]:
    """The list of one map [B, C, *space]: global mean and std, vectors at places, the same of window means and stds."""
    flat = features.flatten(2)
    found = {f"{name}_global_mean": flat.mean(2), f"{name}_global_std": spread(flat, 2)}
    found |= at_places(features, name, most)
    for size in window_sizes:
        if min(features.shape[-2:]) >= size:
            cells = windows(features, size)
            found |= at_places(cells.mean(-1), f"{name}_k{size}_mean", most)
            found |= at_places(spread(cells, -1), f"{name}_k{size}_std", most)
    return found


def feature_list(x: Tensor, maps: Sequence[Tensor], most: int) -> dict[str, Tensor]:
    """``input_x2_mean`` [B, C] (mean over space of x^2) and the lists of all maps, named s1, s2, ..."""
    found = {"input_x2_mean": x.square().flatten(2).mean(2)}
    for number, features in enumerate(maps, start=1):
        found |= map_features(features, f"s{number}", most)
    return found


# ---- poolings of a clip -------------------------------------------------------------------------------------------

OF_CHANGE = "moving", "trajectory", "path"
"""Poolings that read how a clip changes, and so need the map of the clip at rest."""


def at_rest(latents: Tensor) -> Tensor:
    """The clip [B, C, T, H, W] stopped at its mean frame, and exactly itself where it stands still."""
    first = latents[:, :, :1]
    return (first + (latents - first).mean(2, keepdim=True)).expand_as(latents).contiguous()


def change(features: Tensor, rest: Tensor) -> Tensor:
    """What a map owes to the clip's change: the map less that of the clip :func:`at_rest`, less its mean over time.

    An encoder adds positions to what it sees, so its map of a still clip varies from frame to frame. The map at rest
    holds the same positions and takes them away: a still clip has no change, exactly.
    """
    differs = features - rest
    return differs - differs.mean(2, keepdim=True)


def changing_places(changed: Tensor) -> Tensor:
    """Where a clip changes: [B, T, H, W], the squared :func:`change` of each place, scaled to a largest value of 1 per
    clip. A still clip gets the same small value everywhere."""
    squared = changed.square().sum(1)
    return squared / squared.amax((1, 2, 3), keepdim=True).clamp_min(VARIANCE_FLOOR) + VARIANCE_FLOOR


def moving(features: Tensor, rest: Tensor) -> Tensor:
    """What moves: the mean of the map weighted by the third power of :func:`changing_places`, [B, C].

    The power leaves the background out: with 1 the classes of the demo follow the background's tone, with 3 the
    sprite's colour (docs/pseudo_classes.md has the numbers).
    """
    weight = changing_places(change(features, rest)) ** MOVING_POWER
    weight = weight / weight.sum((1, 2, 3), keepdim=True)
    return (features * weight[:, None]).flatten(2).sum(2)


def path(features: Tensor, rest: Tensor) -> Tensor:
    """Where it moves: mean row and mean column, each in [-1, 1], of the change in every frame: [B, 2 T], rows first;
    zero for a still clip."""
    where = changing_places(change(features, rest))
    where = where / where.sum((2, 3), keepdim=True)
    axes = [torch.linspace(-1, 1, length, device=where.device) for length in where.shape[2:]]
    return torch.cat([(where.sum(3) * axes[0]).sum(2), (where.sum(2) * axes[1]).sum(2)], 1)


def trajectory(features: Tensor, rest: Tensor) -> Tensor:
    """Mean over space per frame of the :func:`change`, [B, T * C], frames first; zero for a still clip."""
    return change(features, rest).mean((-2, -1)).transpose(1, 2).flatten(1)


def reads_change(name: str, wanted: Collection[str] | None) -> bool:
    """Whether one of the ``wanted`` poolings (None: all) of the map ``name`` needs the map at rest."""
    return wanted is None or any(f"{name}_{pooling}" in wanted for pooling in OF_CHANGE)


def clip_features(
    features: Tensor, rest: Tensor | None, name: str, wanted: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Poolings of a video map [B, C, T, H, W]: what is there, how it varies, what stands out, what moves and how.

    ``mean``, ``std``, ``max`` over time and space and ``moving``: [B, C]. ``trajectory``: [B, T * C]. ``path``:
    [B, 2 T]. Only the ``wanted`` ones (full names; None: all) are computed. ``rest``: the map of the clip
    :func:`at_rest`, which the last three need.
    """
    flat = features.flatten(2)
    pooled = {f"{name}_mean": lambda: flat.mean(2), f"{name}_std": lambda: spread(flat, 2)}
    pooled[f"{name}_max"] = lambda: flat.amax(2)
    if rest is not None:
        for word, pool in zip(OF_CHANGE, (moving, trajectory, path), strict=True):
            pooled[f"{name}_{word}"] = lambda pool=pool: pool(features, rest)
    return {full: pool() for full, pool in pooled.items() if wanted is None or full in wanted}


def input_features(latents: Tensor, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
    """Of the latents themselves: ``input_x2_mean`` [B, C] (mean over time and space of x^2), and the poolings of
    :func:`clip_features` named ``input_...``, which stand beside those of trained layers."""
    found = clip_features(latents, at_rest(latents), "input", wanted)
    if wanted is None or "input_x2_mean" in wanted:
        found["input_x2_mean"] = latents.square().flatten(2).mean(2)
    return found
