"""Blocks of parameters of draws, anchors and samplers. Torch-free; every generator's section is made of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipelines.params import Count, NonNegative, Params, Positive, Real, Share, Whole

Fraction = Annotated[Share, Field(gt=0, lt=1)]


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class Uniform(Params):
    """Sigma uniform in the range, then shifted."""

    name: Literal["uniform"]
    shift: Positive


class LogitNormal(Params):
    """sigma = sigmoid(mean + std n), then shifted (arXiv:2403.03206, Section 3.1)."""

    name: Literal["logit_normal"]
    mean: Real
    std: Positive
    shift: Positive


class ByResolution(Params):
    """Logit-normal whose mean is a straight line in the number of tokens (LTX-Video; seed A)."""

    name: Literal["by_resolution"]
    std: Positive
    few_tokens: Count
    few_mean: Real
    many_tokens: Count
    many_mean: Real

    @model_validator(mode="after")
    def _two_points(self) -> ByResolution:
        if self.few_tokens >= self.many_tokens:
            raise ValueError("few_tokens must be below many_tokens: two points make the line")
        return self


class ShiftByResolution(Params):
    """Uniform, shifted by sqrt(tokens / base_tokens): more tokens need more noise (arXiv:2403.03206, Eq. 23)."""

    name: Literal["shift_by_resolution"]
    base_tokens: Count


class Mode(Params):
    """Uniform with a bump in the middle (``scale`` > 0) or at the ends (< 0): arXiv:2403.03206, Eq. 20."""

    name: Literal["mode"]
    scale: Annotated[Real, Field(ge=-1.0, le=1.75)]


class CosMap(Params):
    """Density 2 / (pi (1 - 2 sigma + 2 sigma^2)): arXiv:2403.03206, Eq. 21."""

    name: Literal["cosmap"]


class Mix(Params):
    """``low_share`` of the draws uniform below ``border``, the rest above, weighted back to uniform (seed A's MCIS)."""

    name: Literal["mix"]
    border: Fraction
    low_share: Fraction


Draw = Annotated[
    Uniform | LogitNormal | ByResolution | ShiftByResolution | Mode | CosMap | Mix, Field(discriminator="name")
]


class Guidance(Params):
    """Classifier-free guidance, arXiv:2207.12598; ``rescale`` brings the velocity's spread back by that share."""

    scale: Annotated[Real, Field(gt=1)]
    rescale: Share


class Sampling(Params):
    """How a flow is walked from noise to latents; Heun and midpoint cost two evaluations a step, the others one."""

    sampler: Literal["euler", "heun", "midpoint", "dpm_2m"]
    steps: Count
    shift: Positive
    guidance: Guidance | None


class Anchor(Params):
    """The anchor of anchored flow and the sigma at which the clip passes through it."""

    junction: Fraction
    first_frame_weight: Share
    noise_std: NonNegative
    frame_noise_std: NonNegative


class LossWeights(Params):
    """Weights of samples above the junction (``identity``; seed A's global) and below it (``motion``; its local)."""

    identity: NonNegative
    motion: NonNegative


class DriftField(Params):
    """The drifting field of a problem: how its kernel is normalised and scaled (seed C; SEED_NOTES C.6).

    ``scale``: the mean distance and the field's size are taken over all problems and locations of a feature, over the
    locations of a problem, or of each location of each problem.

    The authors' release is ``both``, ``after``, ``all`` and a floor of 1e-6; the log of seed C ``both``, ``inside``,
    ``problem`` and 0.
    """

    temperatures: Annotated[tuple[Positive, ...], BeforeValidator(_tuple), Field(min_length=1)]
    normalisation: Literal["both", "rows", "none", "sinkhorn"]
    weights: Literal["after", "inside"]
    scale: Literal["all", "problem", "location"]
    floor: NonNegative
    correction: Literal["ratio"] | None


Scores = Annotated[tuple[Real, ...], BeforeValidator(_tuple), Field(min_length=1)]


class GivenScores(Params):
    """A score for each latent frame, or patch, the same for every clip; the lowest are given first."""

    scores: Scores


class LevelScores(Params):
    """Scores for each latent frame, or patch, by level, level 1 first: from the sparsest on, the lowest join."""

    level_scores: Annotated[tuple[Scores, ...], BeforeValidator(_tuple), Field(min_length=1)]


class GivenSet(Params):
    """The latent frames, or patches, of the sparsest level, counted from 0; finer levels add others at random."""

    coarsest: Annotated[tuple[Whole, ...], BeforeValidator(_tuple), Field(min_length=1)]


class Transport(Params):
    """Filling by optical flow: tokens of ``patch`` latent pixels, matched by a Sinkhorn plan within a ``radius``."""

    patch: Count
    temperature: Positive
    dustbin: Real
    radius: Count
    iterations: Count


class LearnedFilling(Params):
    """Straight lines, then a convolution over ``kernel`` frames by channel, learned with the refiner."""

    kernel: Annotated[Count, Field(ge=3)]

    @model_validator(mode="after")
    def _has_a_middle(self) -> LearnedFilling:
        if self.kernel % 2 == 0:
            raise ValueError("kernel must be odd: a frame stands in its middle")
        return self


class Filling(Params):
    """What stands between keyframes before a refiner sees it; the blocks belong to the modes of their names."""

    mode: Literal["linear", "smooth", "slerp", "transport", "learned"]
    transport: Transport | None
    learned: LearnedFilling | None

    @model_validator(mode="after")
    def _modes_are_told_how(self) -> Filling:
        for name in ("transport", "learned"):
            if (self.mode == name) != (getattr(self, name) is not None):
                raise ValueError(f"mode: {name} needs a block {name}, the other modes have none ({name}: null)")
        return self


class InverseDistance(Params):
    """Missing patches are means of the given ones, weighted by distance^-power."""

    mode: Literal["inverse_distance"]
    power: Positive


class Harmonic(Params):
    """The harmonic fill of the patches' graph, whose edges are weak where the picture changes (``edge_width``)."""

    mode: Literal["harmonic"]
    diagonal: bool
    edge_width: Positive
    reach: Positive
    regulariser: NonNegative


PatchFilling = Annotated[InverseDistance | Harmonic, Field(discriminator="mode")]
"""What stands in the missing patches of a picture before a refiner sees it."""
