"""One judge for all clips, real or generated: the same feature space, the same readers, the same real clips beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipelines import stage
from pipelines.evaluation import video_metrics
from pipelines.evaluation.params import EvaluationParams, FeatureSpaceParams, KnownFactors
from pipelines.evaluation.probe import Labels, Probe, train_clip_reader, train_frame_reader
from pipelines.evaluation.video_metrics import FeatureSpace, frechet_distance
from pipelines.models.latent_mae import LatentMae

Words = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Clips:
    """Clips as latents [N, C, T', H', W'] and as decoded video [N, 3, T, H, W] in [-1, 1]."""

    latents: Tensor
    video: Tensor

    def __len__(self) -> int:
        return len(self.latents)


# ---- feature spaces -----------------------------------------------------------------------------------------------


@torch.no_grad()
def features_of(encoder: LatentMae, latents: Tensor, names: Sequence[str]) -> Tensor:
    """The named features of latents, side by side: [N, D].

    Raises:
        StageError: the encoder has no such feature.
    """
    found = []
    for part in latents.split(64):
        features = encoder.features(part)
        unknown = [name for name in names if name not in features]
        if unknown:
            known = ", ".join(features)
            raise stage.StageError(f"evaluation.feature_space: no feature {unknown[0]}; this latent MAE has {known}.")
        found.append(torch.cat([features[name] for name in names], dim=1))
    return torch.cat(found)


@dataclass(frozen=True)
class Measured:
    """A feature space with the reference clips in it."""

    names: tuple[str, ...]
    space: FeatureSpace
    reference: Tensor
    shrinkage: float

    def distance(self, features: Tensor) -> float:
        """Fréchet distance of projected features [N, dims] to the reference."""
        return frechet_distance(features, self.reference, self.shrinkage)


def measured(encoder: LatentMae, reference: Tensor, names: tuple[str, ...], params: FeatureSpaceParams) -> Measured:
    """The space of some features, fitted on the latents of reference clips."""
    features = features_of(encoder, reference, names)
    space = FeatureSpace.fit(features, params.dims)
    return Measured(names, space, space.project(features), params.shrinkage)


# ---- readers ------------------------------------------------------------------------------------------------------


def train_probe(params: EvaluationParams, clips: Clips, words: Words) -> Probe | None:
    """Readers of the factors that the clips are labelled with; None without labels."""
    factors = params.probe.factors
    shown = Labels.of({name: words[name] for name in (*factors.identity, *factors.scene) if name in words})
    moving = Labels.of({name: words[name] for name in factors.motion if name in words})
    if not shown.values and not moving.values:
        return None
    seed = params.seeds[0]
    frames = train_frame_reader(clips.video, shown, params.probe.frames, seed) if shown.values else None
    readers = train_clip_reader(clips.latents, moving, params.probe.clips, seed) if moving.values else None
    return Probe(frames, readers, {**shown.values, **moving.values})


def grouped(factors: KnownFactors, by_factor: Mapping[str, float]) -> dict[str, float]:
    """Means over the factors of each group that are known."""
    groups = {"identity": factors.identity, "motion": factors.motion, "scene": factors.scene}
    known = {group: [by_factor[name] for name in names if name in by_factor] for group, names in groups.items()}
    return {f"all_{group}": sum(values) / len(values) for group, values in known.items() if values}


def chance(words: Words, train_words: Words) -> dict[str, float]:
    """Agreement that the most frequent value of the training clips reaches, whatever the clip."""
    frequent = {name: max(sorted(set(values)), key=list(values).count) for name, values in train_words.items()}
    return {name: sum(word == frequent[name] for word in words[name]) / len(words[name]) for name in words}


# ---- scores -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judge:
    """Scores clips against the real clips of the same prompts, which stand in ``real`` in the same order."""

    params: EvaluationParams
    encoder: LatentMae
    real: Clips
    spaces: Mapping[str, Measured]
    probe: Probe | None
    words: Words = field(default_factory=dict)

    def readings(self, clips: Clips) -> dict[str, list[str]]:
        """What the probe reads in every clip, by factor."""
        return self.probe.read(clips.latents, clips.video) if self.probe is not None else {}

    def scores(self, clips: Clips, readings: Words) -> dict[str, Any]:
        """Every number of one set of clips; PSNR is left out where the clips are the real ones."""
        found: dict[str, Any] = {}
        for name, measured in self.spaces.items():
            features = measured.space.project(features_of(self.encoder, clips.latents, measured.names))
            found[name] = measured.distance(features)
            found[f"{name}_spread"] = self._spread(lambda rows, f=features, m=measured: m.distance(f[rows]), len(clips))
        found["motion_ratio"] = video_metrics.local_vs_global_ratio(clips.latents, self.real.latents)
        found["motion_ratio_spread"] = self._spread(
            lambda rows: video_metrics.local_vs_global_ratio(clips.latents[rows], self.real.latents), len(clips)
        )
        found["frame_difference"] = video_metrics.frame_difference(clips.video)
        found["temporal_consistency"] = video_metrics.temporal_consistency(clips.video)
        if clips is not self.real:
            found["psnr"] = video_metrics.psnr(clips.video, self.real.video)
        if readings:
            found["agreement"] = self.agreement(readings)
        return found

    def agreement(self, readings: Words) -> dict[str, float]:
        """Share of clips in which the probe reads what the prompt says: by factor, and mean over each group."""
        right = {name: [a == b for a, b in zip(seen, self.words[name], strict=True)] for name, seen in readings.items()}
        by_factor = {name: sum(hits) / len(hits) for name, hits in right.items()}
        return {**by_factor, **grouped(self.params.probe.factors, by_factor)}

    def _spread(self, score: Any, count: int) -> float:
        return video_metrics.spread(score, count, self.params.resamples, self.params.seeds[0])
