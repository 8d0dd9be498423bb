"""Held-out numbers of a refiner: the same clips, keyframes and noise at every validation, interpolation beside it.

The drift's loss is near constant by construction; these numbers are what shows progress.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipelines.flow import anchored, keyframes
from pipelines.flow.drift import Problems, drift
from pipelines.flow.drift_statistics import kernel_statistics, sample_statistics
from pipelines.flow.filling import alike, fill, level_share, over_elements
from pipelines.flow.params import DriftField
from pipelines.generation.drifting import draws
from pipelines.generation.drifting.features import FeatureSpaces, at, missing_places
from pipelines.generation.drifting.intervals import interval, named
from pipelines.generation.drifting.params import DriftingRefinerParams, KeypatchRefinerParams
from pipelines.models.refiner import Refiner, refined
from pipelines.stage import StageError

SEED = 20260301
DIMS, REFERENCE = 32, 512
"""Principal directions of the independent space, and training clips at most that distances are measured to."""
PLACES = 8
"""Places at which a map's field is measured."""
CHUNK = 64


def seeds_of(batch: Mapping[str, Any]) -> list[int]:
    """The seeds of held-out clips, the same at every validation."""
    return [draws.mixed(SEED, number) for number in range(len(batch["latents"]))]


@dataclass(frozen=True)
class HeldOut:
    """Held-out clips at every level: [levels * B, …], level by level, the sparsest first.

    Attributes:
        latents, filled, told, mask: of every clip at every level.
        noise: [S, levels * B, C, T, H, W], scaled.
        conditions: the refiner's others.
        counts: B, and the numbers of keyframes of the levels.
        prompts: of the B clips.
        kind: what is given, in names of numbers.
    """

    latents: Tensor
    filled: Tensor
    told: Tensor
    mask: Tensor
    noise: Tensor
    conditions: Mapping[str, Tensor]
    clips: int
    numbers: tuple[int, ...]
    prompts: list[str]
    clamp: bool
    kind: str = "keyframes"

    @classmethod
    def of(cls, batch: Mapping[str, Any], params: DriftingRefinerParams) -> HeldOut:
        """The first validation clips, told the class of their prompts, at levels L … 1."""
        how, latents = params.keyframes, batch["latents"]
        counts = keyframes.counts(latents.shape[2], how.least, how.levels, how.growth)
        nested = draws.masks(seeds_of(batch), latents.shape[2], how).to(latents.device)
        filler = partial(fill, how=params.filling)
        return cls.at_levels(batch, nested, counts, filler, params, params.clamp_keyframes)

    @classmethod
    def at_levels(
        cls,
        batch: Mapping[str, Any],
        nested: Tensor,
        counts: Sequence[int],
        filler: Callable[[Tensor, Tensor], Tensor],
        params: DriftingRefinerParams | KeypatchRefinerParams,
        clamp: bool,
        kind: str = "keyframes",
    ) -> HeldOut:
        """Of ``nested`` masks [B, L + 1, …] and what fills in what they do not give."""
        latents, clips, levels = batch["latents"], len(batch["latents"]), nested.shape[1] - 1
        mask = torch.cat([nested[:, level] for level in range(levels, 0, -1)])
        many = latents.repeat(levels, 1, 1, 1, 1)
        noise = draws.normal(seeds_of(batch), "noise", params.validation.samples, *latents.shape[1:]).to(latents)
        told = alike(level_share(mask, counts), mask) * (~mask).to(latents)
        conditions = {name: batch[name] for name in ("prompt_embeds", "prompt_mask", "pseudo_class") if name in batch}
        conditions["alpha"] = torch.full((clips,), params.sampling.alpha, device=latents.device)
        return cls(
            latents=many,
            filled=filler(many, mask),
            told=told,
            mask=mask,
            noise=params.noise_std * params.sampling.noise_scale * noise.transpose(0, 1).repeat(1, levels, 1, 1, 1, 1),
            conditions={name: part.repeat(levels, *[1] * (part.dim() - 1)) for name, part in conditions.items()},
            clips=clips,
            numbers=tuple(counts[:0:-1]),
            prompts=list(batch["prompt"]),
            clamp=clamp,
            kind=kind,
        )

    @torch.no_grad()
    def refine(self, refiner: Refiner) -> Tensor:
        """Refined clips [S, levels * B, C, T, H, W]."""
        kept = self.mask if self.clamp else None
        made = []
        for noise in self.noise:
            parts = []
            for start in range(0, len(self.filled), CHUNK):
                part = slice(start, start + CHUNK)
                told = {name: value[part] for name, value in self.conditions.items()}
                held = None if kept is None else kept[part]
                parts.append(
                    refined(refiner, self.filled[part], self.told[part], self.mask[part], noise[part], told, held)
                )
            made.append(torch.cat(parts))
        return torch.stack(made)

    def missing(self, squares: Tensor) -> Tensor:
        """Means [levels * B] of squares [levels * B, C, T, H, W] over what is missing."""
        missing = over_elements((~self.mask).to(squares)).expand_as(squares)
        return (squares * missing).flatten(1).sum(1) / missing.flatten(1).sum(1)


# ---- numbers ------------------------------------------------------------------------------------------------------


def errors(held: HeldOut, made: Tensor) -> dict[str, float]:
    """Missing-frame errors of refiner and interpolation at every level, and what samples of one clip differ by.

    ``spread_share``: root mean square difference of samples of a clip from their mean, over that of the true clip.

    Raises:
        StageError: what was made is not finite.
    """
    if not bool(made.isfinite().all()):
        raise StageError("what the refiner made of held-out clips is not finite; train anew, with a smaller step.")
    squares = (made - held.latents).square().mean(0)
    ours, theirs = held.missing(squares), held.missing((held.filled - held.latents).square())
    found = {"missing_error": float(ours.mean()), "interpolation_error": float(theirs.mean())}
    parts = zip(held.numbers, ours.split(held.clips), theirs.split(held.clips), strict=True)
    for number, own, other in parts:
        found[f"missing_error_of_{number}_{held.kind}"] = float(own.mean())
        found[f"interpolation_error_of_{number}_{held.kind}"] = float(other.mean())
    middle = made.mean(0)
    varied = held.missing((made - middle).square().sum(0) / max(1, len(made) - 1)).mean()
    left = held.missing((held.latents - middle).square()).mean()
    if left > 0:
        found["spread_share"] = float((varied / left).sqrt())
    return found


def gain(held: HeldOut, made: Tensor, resamples: int) -> dict[str, float]:
    """Share of the interpolation's missing-frame error that is taken away, by level too; clips are resampled.

    Raises:
        ValueError: the interpolation makes no error, or values are not finite.
    """
    squares = (made - held.latents).square().mean(0)
    ours, theirs = held.missing(squares), held.missing((held.filled - held.latents).square())
    by_level = [part.unflatten(0, (-1, held.clips)) for part in (ours, theirs)]

    def share(levels: slice) -> Callable[[Tensor], float]:
        return lambda rows: float(1 - by_level[0][levels][:, rows].sum() / by_level[1][levels][:, rows].sum())

    found = named("gain", interval(share(slice(None)), held.clips, resamples))
    for place, number in enumerate(held.numbers):
        one = slice(place, place + 1)
        found |= named(f"gain_of_{number}_{held.kind}", interval(share(one), held.clips, resamples))
    return found


def motion(held: HeldOut, clips: Tensor, resamples: int) -> tuple[float, float, float]:
    """Seed A's motion ratio of clips [B, …] of the sparsest level to the true ones: 1 is as much motion.

    Raises:
        ValueError: the true clips stand still, frames share nothing, or values are not finite.
    """
    made = anchored.frame_variation(clips)
    true = anchored.frame_variation(held.latents[: held.clips])

    def ratio(rows: Tensor) -> float:
        moving, shared, true_moving, true_shared = (part[rows].sum() for part in (*made, *true))
        return float(moving / shared / (true_moving / true_shared))

    return interval(ratio, held.clips, resamples)


def bent(clips: Tensor) -> Tensor:
    """What clips [B, C, T, H, W] add to the straight line from their first frame to their last, flattened: [B, D].

    Frames that a refiner is given would otherwise decide every distance; of a line it is zero. Of a picture, itself.
    """
    if clips.shape[2] == 1:
        return clips.flatten(1)
    share = torch.linspace(0.0, 1.0, clips.shape[2], device=clips.device)[None, None, :, None, None]
    return (clips - torch.lerp(clips[:, :, :1], clips[:, :, -1:], share)).flatten(1)


@dataclass(frozen=True)
class Independent:
    """A space that no loss looks at: principal directions of :func:`bent` training clips, and those clips in it."""

    mean: Tensor
    directions: Tensor
    reference: Tensor

    @classmethod
    def of(cls, latents: Tensor) -> Independent:
        """From training latents [N, C, T, H, W].

        Raises:
            StageError: they are not finite.
        """
        if not bool(latents.isfinite().all()):
            raise StageError("the latents of training clips are not finite; run the stage latent_shards.")
        flat = bent(latents)
        mean = flat.mean(0)
        directions = torch.linalg.svd(flat - mean, full_matrices=False)[2][:DIMS].T
        return cls(mean, directions, (flat - mean) @ directions)

    def distance(self, clips: Tensor, resamples: int) -> tuple[float, float, float]:
        """Energy distance 2 E|x - y| - E|x - x'| - E|y - y'| of clips to the training clips; clips are resampled.

        Without a sample's distance to itself, so it is unbiased and can be negative; ``scipy.stats.energy_distance`` is
        the root of the same with those counted.

        Raises:
            ValueError: fewer than two clips on a side, or values that are not finite.
        """
        x = (bent(clips) - self.mean) @ self.directions
        across, own = torch.cdist(x, self.reference).mean(1), torch.cdist(x, x)
        count = len(self.reference)
        if count < 2:
            raise ValueError(f"{count} training clips; a distance between two sets needs two of each")
        around = float(torch.cdist(self.reference, self.reference).sum()) / (count * (count - 1))

        def energy(rows: Tensor) -> float:
            pairs = own[rows][:, rows]
            other = rows[:, None] != rows[None, :]
            return float(2 * across[rows].mean() - pairs[other].mean()) - around

        return interval(energy, len(x), resamples)


# ---- the field ----------------------------------------------------------------------------------------------------


def pooled_problems(features: FeatureSpaces, held: HeldOut, clips: Tensor) -> dict[str, Problems]:
    """One problem of all held-out clips per space, ``clips`` [B, …] of the sparsest level against the true ones."""
    true, found = held.latents[: held.clips], {}
    with torch.no_grad():
        vectors = features(torch.cat([clips, true]))
    given = held.mask.all(0, keepdim=True).cpu()  # in every clip: no refiner makes it
    never = given if not bool(given.all()) else torch.zeros_like(given)
    for space in features.spaces(tuple(true.shape[1:])):  # type: ignore[arg-type]
        places = torch.zeros(1, dtype=torch.long)
        if space.grid is not None:
            allowed = missing_places(never, space.grid)[0].nonzero()[:, 0]
            places = allowed[torch.linspace(0, len(allowed) - 1, min(PLACES, len(allowed))).long()]
        own = at(vectors[space.name].unflatten(0, (1, -1)), places[None].to(true.device))
        generated, positives = own.split(held.clips, 2)
        found[space.name.replace("/", "_")] = Problems(generated, positives, generated[:, :, :0])
    return found


def field_numbers(
    features: FeatureSpaces, field: DriftField, held: HeldOut, clips: Tensor, filled: Tensor
) -> dict[str, float]:
    """Per space and temperature: raw force (of the interpolation's, too), effective neighbours, masses; centroid error
    and spread beside the data's."""
    found: dict[str, float] = {}
    before = pooled_problems(features, held, filled)
    for name, problems in pooled_problems(features, held, clips).items():
        forces = [drift(each, field).force.mean((1, 2)).tolist() for each in (problems, before[name])]
        for tau, force, first in zip(field.temperatures, *forces, strict=True):
            found[f"drift/{name}/tau_{tau:g}/force"] = force
            if first > 0:
                found[f"drift/{name}/tau_{tau:g}/force_share"] = force / first
        numbers = kernel_statistics(problems, field) | sample_statistics(problems)
        found |= {f"drift/{name}/{number}": value for number, value in numbers.items()}
    return found


def mean_of(numbers: Mapping[str, float], ending: str) -> float | None:
    """Mean of the numbers whose name ends so; None where there is none."""
    values: Sequence[float] = [value for name, value in numbers.items() if name.endswith(f"/{ending}")]
    return sum(values) / len(values) if values else None
