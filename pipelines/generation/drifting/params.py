"""Parameters of the drifting refiners. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipelines.flow.params import DriftField, Filling, GivenScores, GivenSet, LevelScores, PatchFilling
from pipelines.generation.params import Denoiser, DenoiserParams
from pipelines.params import Count, Names, NonNegative, Params, Positive, Real, Share, Training, Whole


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Windows = Annotated[tuple[Count, ...], BeforeValidator(_tuple), Field(min_length=1)]


Selection = Literal["random", "uniform"] | GivenScores | LevelScores | GivenSet


class Keyframes(Params):
    """How many latent frames are given at each level: K_0 = all of them … K_levels = ``least``; and which."""

    growth: Literal["doubling", "linear", "geometric"]
    least: Count
    levels: Count
    selection: Selection
    endpoints: bool


class Replacement(Params):
    """A share of keyframes is trained as if stage 1 had made them: true ones with noise, and told to be less sure."""

    share: Share
    std: NonNegative


class Corruption(Params):
    """Noise on what lies between the keyframes, and on keyframes that are not given for certain."""

    kind: Literal["none", "gauss", "dist"]
    std: NonNegative
    replacement: Replacement | None
    anneal: Literal["linear", "cosine"]


class Spread(Params):
    """Several samples of each clip, which are told to differ: the energy score in place of the squared error.

    ``weight`` 1 makes it a proper score, smallest where samples are drawn from what the data leave open; below 1 they
    differ by less, at 0 not at all.
    """

    samples: Annotated[Count, Field(ge=2)]
    weight: Share


class Regression(Params):
    """Error to the clean clip, or to the next finer level's interpolation (``adj``).

    Squared, or with ``spread`` the energy score. Weight 1 until the drift begins, then falling in ``decay_steps`` to
    ``floor``.
    """

    target: Literal["clean", "adj"]
    spread: Spread | None
    keyframe_weight: Share
    decay_steps: Whole
    floor: NonNegative


class Group(Params):
    """What the reader draws for a problem of a class: clips that are refined together, and real ones beside them."""

    clips: Count
    positives: Whole
    unconditional: Whole
    balance: Share


class Mixture(Params):
    """Weights of the problems: per clip and place, per class, one for all of a micro-batch."""

    clip: NonNegative
    pseudo_class: NonNegative
    pooled: NonNegative

    @model_validator(mode="after")
    def _something_counts(self) -> Mixture:
        if not self.clip + self.pseudo_class + self.pooled:
            raise ValueError("all three weights are 0: give one of them a weight, or set drift: null")
        return self


class Views(Params):
    """Further positives of a clip: itself with noise of this size."""

    count: Whole
    std: NonNegative


class Maps(Params):
    """Feature maps of the encoder at places of missing frames, by themselves and averaged over windows."""

    layers: Names
    windows: Windows
    locations: Count
    weight: Positive


class Statistics(Params):
    """Poolings of the encoder's maps over a clip, by name."""

    names: Names
    weight: Positive


class RawLatents(Params):
    """Windows of the latents themselves, flattened, at places of missing frames."""

    windows: Windows
    locations: Count
    weight: Positive


class Features(Params):
    """Where the drift is taken: families, each averaged over its maps and places, by weight."""

    encoder: Literal["trained", "random"]
    maps: Maps | None
    statistics: Statistics | None
    latents: RawLatents | None

    @model_validator(mode="after")
    def _something_is_looked_at(self) -> Features:
        if self.maps is None and self.statistics is None and self.latents is None:
            raise ValueError("maps, statistics and latents are all null: the drift has no features")
        return self


class Strength(Params):
    """Guidance while training: alpha in [1, most] of density alpha^-power, or 1 with ``plain_share``."""

    power: NonNegative
    most: Annotated[Positive, Field(gt=1)]
    plain_share: Share


class LearnedTemperature(Params):
    """One more temperature, learned from ``start`` on (:mod:`pipelines.flow.drift_temperature`)."""

    start: Positive


class Drifting(Params):
    """The drifting loss: when it begins, its problems, samples, features, kernel and guidance."""

    begin: Whole
    weight: Positive
    samples: Count
    problems: Mixture
    views: Views
    group: Group
    features: Features
    field: DriftField
    learned_temperature: LearnedTemperature | None
    guidance: Strength | None

    @model_validator(mode="after")
    def _problems_have_what_they_need(self) -> Drifting:
        if self.guidance is not None and not self.group.unconditional:
            raise ValueError("guidance pushes samples away from unconditional clips: give group.unconditional some")
        if self.problems.clip and self.samples + self.group.unconditional < 2:
            raise ValueError(
                "a problem per clip with 1 sample and no unconditional clip has no field: 2 samples or more"
            )
        if self.problems.pseudo_class and self.samples * self.group.clips + self.group.unconditional < 2:
            raise ValueError(
                "a problem per class of 1 clip with 1 sample and no unconditional clip has no field: 2 samples or more"
            )
        return self


class RefinerSampling(Params):
    """How a refiner is asked: guidance strength, and by how much its noise is scaled."""

    alpha: Annotated[Positive, Field(ge=1)]
    noise_scale: NonNegative


class RefinerValidation(Params):
    """Held-out clips, samples of each, and clips that are shown."""

    clips: Count
    samples: Annotated[Count, Field(ge=2)]
    shown: Whole
    resamples: Count


class RefinerGates(Params):
    """Below ``min_gain`` (share of the interpolation's missing-frame error that is taken away, lower end of the
    interval) the refiner fails; below ``min_spread`` of the spread that the data leave open it is deterministic."""

    min_gain: Real
    min_spread: Share
    max_force_share: Positive
    min_effective_positives: Positive


class DriftingRefinerParams(Params):
    """Section ``drifting_refiner``."""

    refiner: Denoiser
    keyframes: Keyframes
    filling: Filling
    corruption: Corruption
    noise_std: NonNegative
    clamp_keyframes: bool
    prompt_dropout: Share
    class_dropout: Share
    regression: Regression
    drift: Drifting | None
    sampling: RefinerSampling
    validation: RefinerValidation
    gates: RefinerGates
    training: Training

    @model_validator(mode="after")
    def _a_learned_filling_is_applied_once(self) -> DriftingRefinerParams:
        if self.filling.learned is not None and self.regression.target == "adj":
            raise ValueError("filling.mode: learned goes with regression.target: clean; adj fills in level by level")
        return self


class Keypatches(Params):
    """Patches of a picture that are given at each level: K_0 = all of them … K_levels = ``least``; and which.

    Patches are counted row by row. None is given by rule, as endpoints of a clip are.
    """

    patch: Count
    growth: Literal["doubling", "linear", "geometric"]
    least: Count
    levels: Count
    selection: Selection


class MaeSpace(Params):
    """The latent MAE of the lineage; of latents."""

    kind: Literal["latent_mae"]


class OwnEncoder(Params):
    """The layers of the project's own trained autoencoder; of pixels."""

    kind: Literal["own_encoder"]


class ResNetFolder(Params):
    """A published ResNet in a local folder; of pixels."""

    kind: Literal["resnet"]
    folder: str


class KeypatchRefinerParams(Params):
    """Section ``keypatch_refiner``."""

    space: Literal["latents", "pixels"]
    encoder: Annotated[MaeSpace | OwnEncoder | ResNetFolder, Field(discriminator="kind")]
    refiner: DenoiserParams
    keypatches: Keypatches
    filling: PatchFilling
    noise_std: NonNegative
    clamp_keypatches: bool
    prompt_dropout: Share
    class_dropout: Share
    regression: Regression
    drift: Drifting | None
    sampling: RefinerSampling
    validation: RefinerValidation
    gates: RefinerGates
    training: Training

    @model_validator(mode="after")
    def _encoder_sees_the_space(self) -> KeypatchRefinerParams:
        if (self.space == "latents") != (self.encoder.kind == "latent_mae"):
            raise ValueError(
                f"space: {self.space} and encoder.kind: {self.encoder.kind}: a latent_mae sees latents, own_encoder "
                "and resnet see pixels"
            )
        return self
