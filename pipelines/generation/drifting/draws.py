"""What is random of a sample in a step: level, keyframes, noise, views, guidance; a function of its own seed alone.

Each sample has its own generators, so nothing depends on how a batch was cut into micro-batches or shared out over
processes. Each kind of draw has a generator of its own: one more of one kind leaves the others as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines.flow import keyframes
from pipelines.flow.drift_statistics import drawn_strength
from pipelines.flow.params import GivenScores, GivenSet, LevelScores
from pipelines.generation.drifting.params import Keyframes, Strength
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


def masks(seeds: Sequence[int], frames: int, how: Keyframes) -> Tensor:
    """Masks [B, L + 1, T] of given frames, level 0 first; nested but where they are evenly spaced.

    Raises:
        StageError: the counts do not fall strictly from T, or scores or a given set are not of T frames.
    """
    numbers = keyframes.counts(frames, how.least, how.levels, how.growth)
    match how.selection:
        case "uniform":
            return keyframes.evenly(frames, numbers, len(seeds))
        case GivenScores(scores=scores):
            return keyframes.ranked(_scored([scores], frames, len(seeds))[:, 0], numbers, how.endpoints)
        case LevelScores(level_scores=scores):
            if len(scores) != how.levels:
                rows = "1 row" if len(scores) == 1 else f"{len(scores)} rows"
                raise StageError(f"keyframes.selection.level_scores: {rows} for {how.levels} levels; one for each.")
            level_0 = (0.0,) * frames  # where all are given
            return keyframes.ranked_by_level(_scored([level_0, *scores], frames, len(seeds)), numbers, how.endpoints)
        case GivenSet(coarsest=places):
            given = _given(places, frames, how.endpoints).expand(len(seeds), -1)
            return keyframes.ranked_from(given, unit(seeds, "keyframes", frames), numbers)
        case _:
            return keyframes.ranked(unit(seeds, "keyframes", frames), numbers, how.endpoints)


def _scored(rows: Sequence[Sequence[float]], frames: int, batch: int) -> Tensor:
    """Scores [B, rows, T], equal for all clips."""
    for row in rows:
        if len(row) != frames:
            raise StageError(
                f"keyframes.selection: {len(row)} scores, but clips have {frames} latent frames; give one for each."
            )
    return torch.tensor(rows, dtype=torch.float64).expand(batch, -1, -1)


def _given(places: Sequence[int], frames: int, endpoints: bool) -> Tensor:
    """The set as a mask [1, T]."""
    if max(places) >= frames:
        raise StageError(
            f"keyframes.selection.coarsest: frame {max(places)} lies outside clips of {frames} latent frames, 0 to "
            f"{frames - 1}."
        )
    if endpoints and not {0, frames - 1} <= set(places):
        raise StageError(
            f"keyframes.selection.coarsest: {list(places)} lacks frame 0 or {frames - 1}, which endpoints: true always "
            "gives; add them, or set endpoints: false."
        )
    given = torch.zeros(1, frames, dtype=torch.bool)
    given[:, list(places)] = True
    return given


def strengths(seeds: Sequence[int], how: Strength | None) -> Tensor:
    """Guidance strength alpha [U] of each seed; 1 without guidance."""
    if how is None:
        return torch.ones(len(seeds))
    alpha = drawn_strength(unit(seeds, "guidance"), how.power, how.most)
    return torch.where(unit(seeds, "plain") < how.plain_share, 1.0, alpha)
