"""One judge for all clips, real or generated: the same feature space, the same readers, the same real clips beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pipelines import stage
from pipelines.evaluation import video_metrics
from pipelines.evaluation.distances import Kernels, Training, spread_ratios
from pipelines.evaluation.params import EvaluationParams, FeatureSpaceParams, KnownFactors
from pipelines.evaluation.probe import Labels, Probe, train_clip_reader, train_frame_reader
from pipelines.evaluation.resampling import Better, Estimate, Resamples
from pipelines.evaluation.video_metrics import FeatureSpace, MotionRatio, frechet_distance
from pipelines.models.latent_mae import LatentMae

Words = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Clips:
    """Clips as latents [N, C, T', H', W'] and as decoded video [N, 3, T, H, W], uint8 or in [-1, 1].

    ``missing``: bool [N, T'] or [N, T', H', W'], latent frames or places that a generator was not given, where it was
    given some.
    """

    latents: Tensor
    video: Tensor
    missing: Tensor | None = None

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True)
class Made:
    """Clips that are not decoded yet: latents, and what a generator was not given, as in :class:`Clips`."""

    latents: Tensor
    missing: Tensor | None = None


# ---- feature spaces -----------------------------------------------------------------------------------------------


Named = Mapping[str, Tensor]
"""Features [N, D] of some clips by name."""


@torch.no_grad()
def features_of(encoder: LatentMae, latents: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """The named features [N, D] of latents [N, C, T', H', W'].

    Raises:
        StageError: the encoder has no such feature.
    """
    parts = latents.split(64)
    try:
        found = [encoder.features(part, names) for part in parts]
        return {name: torch.cat([features[name] for features in found]) for name in names}
    except KeyError as absent:
        known = ", ".join(encoder.features(parts[0][:1]))
        raise stage.StageError(
            f"evaluation.feature_space: no feature {absent.args[0]}; this latent MAE has {known}."
        ) from None


@dataclass(frozen=True)
class FittedSpace:
    """A feature space, fitted on training clips, with the reference clips in it: held-out ones that no prompt is of.

    Attributes:
        training: the training clips in it, to tell copies by.
    """

    names: tuple[str, ...]
    space: FeatureSpace
    reference: Tensor
    training: Training
    shrinkage: float

    def features(self, named: Named) -> Tensor:
        """Clips in the space, by their features: [N, dims]."""
        return self.space.project(_joined(named, self.names))

    def frechet(self, features: Tensor) -> float:
        """Fréchet distance of projected features [N, dims] to the reference."""
        return frechet_distance(features, self.reference, self.shrinkage)


def measured(
    train: Named, reference: Named, held_out: Named, names: Sequence[str], how: FeatureSpaceParams
) -> FittedSpace:
    """The space of some features of training, reference and other held-out clips.

    Raises:
        ValueError: training clips are all alike in it, or not finite.
    """
    features = _joined(train, names)
    space = FeatureSpace.fit(features, how.dims)
    beside = [space.project(_joined(clips, names)) for clips in (reference, held_out)]
    training = Training.of(space.project(features), torch.cat(beside))
    return FittedSpace(tuple(names), space, beside[0], training, how.shrinkage)


def _joined(named: Named, names: Sequence[str]) -> Tensor:
    return torch.cat([named[name] for name in names], dim=1)


# ---- readers ------------------------------------------------------------------------------------------------------


def train_probe(params: EvaluationParams, clips: Clips, words: Words, precision: str) -> Probe | None:
    """Readers of the factors that the clips are labelled with; None without labels. Frames in fp32 or bf16."""
    seed, how, factors = params.seeds[0], params.probe, params.probe.factors
    shown = Labels.of({name: words[name] for name in (*factors.identity, *factors.scene) if name in words})
    moving = Labels.of({name: words[name] for name in factors.motion if name in words})
    if not shown.values and not moving.values:
        return None
    frames = train_frame_reader(clips.video, shown, how.frames, seed, precision) if shown.values else None
    readers = train_clip_reader(clips.latents, moving, how.clips, seed) if moving.values else None
    return Probe(frames, readers, {**shown.values, **moving.values}, precision)


def _groups(factors: KnownFactors) -> dict[str, Sequence[str]]:
    return {"identity": factors.identity, "motion": factors.motion, "scene": factors.scene}


def grouped(factors: KnownFactors, by_factor: Mapping[str, float]) -> dict[str, float]:
    """Means over the factors of each group that are known."""
    groups = _groups(factors)
    known = {group: [by_factor[name] for name in names if name in by_factor] for group, names in groups.items()}
    return {f"all_{group}": sum(values) / len(values) for group, values in known.items() if values}


def chance(words: Words, train_words: Words) -> dict[str, float]:
    """Agreement that the most frequent value of the training clips reaches, whatever the clip."""
    frequent = {name: max(sorted(set(values)), key=list(values).count) for name, values in train_words.items()}
    return {name: sum(word == frequent[name] for word in words[name]) / len(words[name]) for name in words}


# ---- scores -------------------------------------------------------------------------------------------------------

BETTER: Mapping[str, Better] = {
    "kernel_distance": "lower",
    "kernel_distance_motion": "lower",
    "motion_ratio": "near 1",
    "variety": "near 1",
    "missing_error": "lower",
    "agreement/all_identity": "higher",
    "agreement/all_motion": "higher",
}
"""What systems are compared by, pair by pair."""


@dataclass(frozen=True)
class Scores:
    """Numbers of one set of clips: estimates with intervals, plain values, and why some are missing, by name."""

    estimates: dict[str, Estimate]
    values: dict[str, float]
    unavailable: dict[str, str]

    def numbers(self) -> dict[str, Any]:
        """All of them as metrics, agreement in a group of its own."""
        flat = dict(self.values)
        for name, estimate in self.estimates.items():
            found = estimate.numbers(name)
            if name.startswith("frechet"):  # a resample repeats clips, which raises this distance: no interval of it
                found = {key: value for key, value in found.items() if not key.endswith(("_low", "_high"))}
            flat |= found
        grouped_by: dict[str, Any] = {name: value for name, value in flat.items() if "/" not in name}
        for name, value in flat.items():
            group, slash, rest = name.partition("/")
            if slash:
                grouped_by.setdefault(group, {})[rest] = value
        return grouped_by


@dataclass(frozen=True)
class Judge:
    """Scores clips against the real clips of the same prompts, which stand in ``real`` in the same order.

    Attributes:
        resamples: of the prompts, the same for everything that is judged.
        reference_resamples: of the reference clips, likewise.
        undefined: why there is no such space, by name.
    """

    params: EvaluationParams
    encoder: LatentMae
    real: Clips
    spaces: Mapping[str, FittedSpace]
    probe: Probe | None
    resamples: Resamples
    reference_resamples: Resamples
    words: Words = field(default_factory=dict)
    undefined: Mapping[str, str] = field(default_factory=dict)

    def readings(self, clips: Clips) -> dict[str, list[str]]:
        """What the probe reads in every clip, by factor."""
        return self.probe.read(clips.latents, clips.video) if self.probe is not None else {}

    def scores(self, clips: Clips, readings: Words) -> Scores:
        """Every number of one set of clips; PSNR is left out where the clips are the real ones. What is not defined on
        these clips is named with its reason."""
        unavailable = {f"distance{name}": why for name, why in self.undefined.items()}
        estimates: dict[str, Estimate] = {}
        inside = self._real_features if clips is self.real else self._features(clips)
        for name, space in self.spaces.items():
            try:
                estimates |= self._in_space(name, space, inside[name])
            except ValueError as error:
                unavailable[f"distance{name}"] = str(error)
        numbers: dict[str, Callable[[], Estimate | float]] = {
            "motion_ratio": lambda: self.resamples.estimate(MotionRatio.of(clips.latents, self.real.latents)),
            "frame_difference": lambda: video_metrics.frame_difference(clips.video),
            "temporal_consistency": lambda: video_metrics.temporal_consistency(clips.video),
        }
        if clips.missing is not None:
            numbers["missing_error"] = lambda: self._missing_error(clips)
        if clips is not self.real:
            numbers["psnr"] = lambda: video_metrics.psnr(clips.video, self.real.video)
        values: dict[str, float] = {}
        for name, number in numbers.items():
            try:
                found = number()
            except ValueError as error:
                unavailable[name] = str(error)
                continue
            if isinstance(found, Estimate):
                estimates[name] = found
            else:
                values[name] = found
        return Scores(estimates | self.agreement(readings), values, unavailable)

    def _missing_error(self, clips: Clips) -> Estimate:
        """Mean square error over what the generator was not given."""
        assert clips.missing is not None
        video_metrics.require_finite(clips.latents)
        squares = (clips.latents - self.real.latents).square().mean(1)
        missing = clips.missing.to(squares)
        missing = (missing if missing.dim() == 4 else missing[:, :, None, None]).expand_as(squares).flatten(1)
        if not bool((missing.sum(1) > 0).all()):
            raise ValueError("of some clips nothing was missing")
        return self.resamples.mean((squares.flatten(1) * missing).sum(1) / missing.sum(1))

    def _in_space(self, name: str, space: FittedSpace, features: Tensor) -> dict[str, Estimate]:
        """Distances in one space (``name`` is "" or "_motion"), and in that of appearance variety and copies."""
        kernels = Kernels.of(features, space.reference, self.resamples.copies)
        distance = self.resamples.estimate_beside(self.reference_resamples, kernels.distances)
        found = {f"kernel_distance{name}": distance, f"frechet{name}": self._frechet(space, features)}
        if not name:
            real = self._real_features[name]
            found["variety"] = self.resamples.estimate(lambda weights: spread_ratios(features, real, weights))
            found["copied_share"] = self.resamples.mean(space.training.copies(features))
            found["nearest_training"] = self.resamples.mean(space.training.nearest(features))
        return found

    @cached_property
    def _real_features(self) -> dict[str, Tensor]:
        """Of the real clips in every space: the same beside every system."""
        return self._features(self.real)

    def _features(self, clips: Clips) -> dict[str, Tensor]:
        """Clips in every space; the encoder looks at them once."""
        wanted = [name for space in self.spaces.values() for name in space.names]
        named = features_of(self.encoder, clips.latents, wanted) if wanted else {}
        return {name: space.features(named) for name, space in self.spaces.items()}

    def _frechet(self, space: FittedSpace, features: Tensor) -> Estimate:
        def distance(counts: Tensor) -> float:
            return space.frechet(features.repeat_interleave(counts.long(), 0))

        few = Resamples(self.resamples.counts[:FRECHET_RESAMPLES])
        return few.estimate(lambda weights: torch.tensor([*map(distance, weights)], dtype=torch.float64))

    def agreement(self, readings: Words) -> dict[str, Estimate]:
        """Share of clips in which the probe reads what the prompt says: by factor, and mean over each group."""
        right = {
            name: torch.tensor([a == b for a, b in zip(seen, self.words[name], strict=True)]).double()
            for name, seen in readings.items()
        }
        groups: dict[str, Tensor] = {}
        for group, names in _groups(self.params.probe.factors).items():
            known = [right[name] for name in names if name in right]
            if known:
                groups[f"all_{group}"] = torch.stack(known).mean(0)
        return {f"agreement/{name}": self.resamples.mean(hits) for name, hits in {**right, **groups}.items()}


FRECHET_RESAMPLES = 40
"""A matrix root each."""
