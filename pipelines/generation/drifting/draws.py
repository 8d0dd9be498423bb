"""What is random of a sample in a step: level, keyframes, noise, views, guidance; a function of its own seed alone.

Each sample has its own generators, so nothing depends on how a batch was cut into micro-batches or shared out over
processes. Each kind of draw has a generator of its own: one more of one kind leaves the others as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.flow import keyframes, patches
from pipelines.flow.drift_statistics import drawn_strength
from pipelines.flow.params import GivenScores, GivenSet, LevelScores
from pipelines.generation.drifting.params import Keyframes, Keypatches, Selection, Strength
from pipelines.stage import StageError

STRIDE = 0x9E3779B97F4A7C15
"""Between the seeds of a sample's kinds of draws. Mixed well: torch's generator looks at 32 bits of a seed."""


def mixed(seed: int, kind: int) -> int:
    """A seed of 32 bits from a sample's seed and the number of a kind of draw (splitmix64's finaliser)."""
    value = (seed + (kind + 1) * STRIDE) & (2**64 - 1)
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (value ^ (value >> 31)) & 0xFFFFFFFF


KINDS = (
    "level",
    "keyframes",
    "noise",
    "views",
    "corruption",
    "replaced",
    "chosen",
    "places",
    "guidance",
    "plain",
    "dropped",
)


def unit(seeds: Sequence[int], kind: str, *shape: int) -> Tensor:
    """Uniform numbers [B, *shape] of the samples' own."""
    return torch.stack([torch.rand(shape, generator=_generator(seed, kind)) for seed in seeds])


def normal(seeds: Sequence[int], kind: str, *shape: int) -> Tensor:
    """Normal numbers [B, *shape] of the samples' own."""
    return torch.stack([torch.randn(shape, generator=_generator(seed, kind)) for seed in seeds])


def _generator(seed: int, kind: str) -> torch.Generator:
    return torch.Generator().manual_seed(mixed(seed, KINDS.index(kind)))


def levels(seeds: Sequence[int], most: int) -> Tensor:
    """A level [B] in 1 … ``most`` for each sample; level 0, where nothing is missing, teaches nothing."""
    return (unit(seeds, "level") * most).long().clamp(max=most - 1) + 1


@dataclass(frozen=True)
class _Places:
    """What is chosen from, in words: ``keyframes``, latent ``frame``s of ``clips``; or patches of pictures."""

    key: str
    one: str
    each: str
    whole: str
    total: int


def masks(seeds: Sequence[int], frames: int, how: Keyframes) -> Tensor:
    """Masks [B, L + 1, T] of given frames, level 0 first; nested but where they are evenly spaced.

    Raises:
        StageError: the counts do not fall strictly from T, or scores or a given set are not of T frames.
    """
    numbers = keyframes.counts(frames, how.least, how.levels, how.growth)
    if how.selection == "uniform":
        return keyframes.evenly(frames, numbers, len(seeds))
    places = _Places("keyframes", "frame", "latent frames", "clips", frames)
    return _chosen(seeds, places, numbers, how.selection, how.endpoints)


def patch_masks(seeds: Sequence[int], grid: tuple[int, int], how: Keypatches) -> Tensor:
    """Nested masks [B, L + 1, N] of given patches of a grid, level 0 first.

    Raises:
        StageError: the counts do not fall strictly from N, or scores or a given set are not of N patches.
    """
    total = grid[0] * grid[1]
    numbers = keyframes.counts(total, how.least, how.levels, how.growth, "keypatches")
    if how.selection == "uniform":
        return patches.evenly(grid, numbers, len(seeds))
    return _chosen(seeds, _Places("keypatches", "patch", "patches", "pictures", total), numbers, how.selection, False)


def sparsest(chosen: Tensor, selection: Selection) -> list[int] | None:
    """The places of the sparsest level of masks [B, L + 1, N] where it is the same for all; None at random."""
    return None if selection == "random" else chosen[0, -1].nonzero().flatten().tolist()


def _chosen(
    seeds: Sequence[int], places: _Places, numbers: Sequence[int], selection: Selection, endpoints: bool
) -> Tensor:
    match selection:
        case GivenScores(scores=scores):
            return keyframes.ranked(_scored([scores], places, len(seeds))[:, 0], numbers, endpoints)
        case LevelScores(level_scores=scores):
            levels = len(numbers) - 1
            if len(scores) != levels:
                rows = "1 row" if len(scores) == 1 else f"{len(scores)} rows"
                raise StageError(f"{places.key}.selection.level_scores: {rows} for {levels} levels; one for each.")
            level_0 = (0.0,) * places.total  # where all are given
            return keyframes.ranked_by_level(_scored([level_0, *scores], places, len(seeds)), numbers, endpoints)
        case GivenSet(coarsest=coarsest):
            given = _given(coarsest, places, numbers[-1], endpoints).expand(len(seeds), -1)
            return keyframes.ranked_from(given, unit(seeds, "keyframes", places.total), numbers)
        case _:
            return keyframes.ranked(unit(seeds, "keyframes", places.total), numbers, endpoints)


def _scored(rows: Sequence[Sequence[float]], places: _Places, batch: int) -> Tensor:
    """Scores [B, rows, N], equal for all."""
    for row in rows:
        if len(row) != places.total:
            scores = "1 score" if len(row) == 1 else f"{len(row)} scores"
            raise StageError(
                f"{places.key}.selection: {scores}, but {places.whole} have {places.total} {places.each}; give one for "
                "each."
            )
    return torch.tensor(rows, dtype=torch.float64).expand(batch, -1, -1)


def _given(coarsest: Sequence[int], places: _Places, least: int, endpoints: bool) -> Tensor:
    """The set as a mask [1, N]."""
    key, last = f"{places.key}.selection.coarsest", places.total - 1
    if max(coarsest) > last:
        raise StageError(
            f"{key}: {places.one} {max(coarsest)} lies outside {places.whole} of {places.total} {places.each}, 0 to "
            f"{last}."
        )
    if endpoints and not {0, last} <= set(coarsest):
        raise StageError(
            f"{key}: {list(coarsest)} lacks {places.one} 0 or {last}, which endpoints: true always gives; add them, or "
            "set endpoints: false."
        )
    if len(set(coarsest)) != least:
        raise StageError(
            f"{key}: the given set must have {least} places, as {places.key}.least says; has {len(set(coarsest))}."
        )
    given = torch.zeros(1, places.total, dtype=torch.bool)
    given[:, list(coarsest)] = True
    return given


def strengths(seeds: Sequence[int], how: Strength | None) -> Tensor:
    """Guidance strength alpha [U] of each seed; 1 without guidance."""
    if how is None:
        return torch.ones(len(seeds))
    alpha = drawn_strength(unit(seeds, "guidance"), how.power, how.most)
    return torch.where(unit(seeds, "plain") < how.plain_share, 1.0, alpha)
