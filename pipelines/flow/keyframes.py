"""Which frames of a clip, or patches of a picture, are given at each level: nested sets, level 0 = all of them.

K_L = K_min < … < K_0 = T. A level's set holds the next sparser one (except where all are evenly spaced). Sets are masks
[B, L + 1, T], level 0 first, true where a frame is given; a pure function of what is passed in (seed C, C.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from pipelines.stage import StageError

Growth = Literal["doubling", "linear", "geometric"]


def growth(total: int, least: int, levels: int, kind: Growth) -> list[int]:
    """Keyframe counts K_0 … K_L as the formula gives them, whether or not they are fit for use (:func:`counts`).

    From K_L = min(least, total) upwards: twice the last (doubling), or evenly in numbers (linear) or in ratios
    (geometric) of the way to ``total``, at least one more each and at most ``total``. Rounding is half to even.
    """
    found = [min(least, total)]
    for climbed in range(1, levels + 1):
        target = {
            "doubling": 2 * found[-1],
            "linear": round(least + climbed / levels * (total - least)),
            "geometric": round(least * (total / least) ** (climbed / levels)),
        }[kind]
        found.append(min(total, max(found[-1] + 1, target)))
    return found[::-1]


def counts(total: int, least: int, levels: int, kind: Growth, what: str = "keyframes") -> list[int]:
    """K_0 … K_L, K_0 = ``total`` and strictly falling, so that level 0 is the clean clip and no level repeats another.

    Raises:
        StageError: they are not, with levels that would do.
    """
    found = growth(total, least, levels, kind)
    if _is_fit(found, total):
        return found
    fits = [count for count in range(1, total) if _is_fit(growth(total, least, count, kind), total)]
    remedy = f"levels from {fits[0]} to {fits[-1]} would do" if fits else "no number of levels would do"
    raise StageError(
        f"{what}: {levels} levels from {least} of {total} by {kind} growth give {found}, which must fall strictly "
        f"from {total}; {remedy}."
    )


def _is_fit(found: list[int], total: int) -> bool:
    return found[0] == total and all(one > other for one, other in pairwise(found))


# ---- sets ---------------------------------------------------------------------------------------------------------


def ranked(scores: Tensor, numbers: Sequence[int], endpoints: bool) -> Tensor:
    """Nested masks [B, L + 1, T]: at each level the places of the lowest scores [B, T].

    ``endpoints``: the first and last place are always given, and count.

    Raises:
        StageError: a level has fewer keyframes than the endpoints are.
    """
    if endpoints:
        if min(numbers) < 2:
            raise StageError(f"keyframes: first and last frame are always given, so a level has 2 or more: {numbers}.")
        scores = scores.clone()
        scores[:, [0, -1]] = -torch.inf
    rank = scores.argsort(dim=1, stable=True).argsort(dim=1)
    limits = torch.tensor(list(numbers), device=scores.device)
    return rank[:, None, :] < limits[None, :, None]


def ranked_by_level(scores: Tensor, numbers: Sequence[int], endpoints: bool) -> Tensor:
    """Nested masks from scores per level [B, L + 1, T]: from the sparsest on, the lowest join what is chosen."""
    chosen = torch.zeros_like(scores[:, 0], dtype=torch.bool)
    levels = []
    for level in reversed(range(len(numbers))):
        own = scores[:, level].masked_fill(chosen, -torch.inf)
        chosen = ranked(own, [numbers[level]], endpoints)[:, 0]
        levels.append(chosen)
    return torch.stack(levels[::-1], dim=1)


def ranked_from(given: Tensor, scores: Tensor, numbers: Sequence[int]) -> Tensor:
    """Nested masks whose sparsest level is ``given`` (bool [B, T], K_L each); finer ones add the lowest scores [B, T].

    Raises:
        StageError: another number is given than the sparsest level has.
    """
    if (given.sum(1) != numbers[-1]).any():
        found = ", ".join(map(str, sorted(set(given.sum(1).tolist()))))
        raise StageError(f"keyframes: the given set must have {numbers[-1]} places, has {found}.")
    return ranked(scores.masked_fill(given, -torch.inf), numbers, False)


def uniform(total: int, number: int) -> list[int]:
    """Evenly spaced places, first and last among them: round(linspace(0, T - 1, K)), half to even."""
    if number == 1:
        return [0]
    return [round(place * (total - 1) / (number - 1)) for place in range(number)]


def evenly(total: int, numbers: Sequence[int], batch: int) -> Tensor:
    """Masks [B, L + 1, T] of evenly spaced places; not nested."""
    masks = torch.zeros(batch, len(numbers), total, dtype=torch.bool)
    for level, number in enumerate(numbers):
        masks[:, level, uniform(total, number)] = True
    return masks


# ---- levels --------------------------------------------------------------------------------------------------------


def at_level(masks: Tensor, level: Tensor) -> Tensor:
    """The mask [B, T] of each sample's level [B]."""
    return masks[torch.arange(len(masks), device=masks.device), level]


# ---- what a network is told of a mask -----------------------------------------------------------------------------


def neighbours(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Places [B, T] of the last keyframe up to each frame and of the first from it on; -1 and T where none is."""
    total = mask.shape[1]
    place = torch.arange(total, device=mask.device).expand_as(mask)
    before = torch.where(mask, place, -1).cummax(1).values
    after = torch.where(mask, place, total).flip(1).cummin(1).values.flip(1)
    return before, after


def distance_share(mask: Tensor) -> Tensor:
    """clip(2 min(t - l, r - t) / (r - l), 0, 1) [B, T]: 0 at keyframes, 1 half-way between two; 1 outside all."""
    before, after = neighbours(mask)
    place = torch.arange(mask.shape[1], device=mask.device)
    share = 2.0 * torch.minimum(place - before, after - place) / (after - before).clamp(min=1)
    outside = (before < 0) | (after >= mask.shape[1])
    return torch.where(outside, torch.where(mask, 0.0, 1.0), share.clamp(0.0, 1.0))
