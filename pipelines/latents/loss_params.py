"""Parameters of the losses of an autoencoder: a block per term, null where a term is not wanted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipelines.params import BelowOne, Count, NonNegative, Params, Positive, Share, Whole


class WarmUp(Params):
    """How a weight grows from 0 to its value: from update ``start``, over ``steps`` updates.

    With s the share of the steps done: ``jump`` is the value at once, ``linear`` s, ``cosine`` (1 - cos(pi s)) / 2,
    ``sigmoid`` 1 / (1 + exp(-12 (s - 1/2))), ``exponential`` (exp(5 s) - 1) / (exp(5) - 1).
    """

    shape: Literal["jump", "linear", "cosine", "sigmoid", "exponential"]
    start: Whole
    steps: Whole

    @model_validator(mode="after")
    def _steps_where_there_is_a_shape(self) -> WarmUp:
        if (self.shape == "jump") != (self.steps == 0):
            raise ValueError("steps is 0 for shape jump, and at least 1 for the others")
        return self


class Term(Params):
    """What every term has: its weight, and how that comes in (null: from the first update)."""

    weight: Positive
    warmup: WarmUp | None


class PlainReconstruction(Term):
    """|difference|, or its square, of pixels in [-1, 1]."""

    kind: Literal["l1", "mse"]


class SoftReconstruction(Term):
    """Smooth L1 with beta, or Charbonnier with epsilon, as ``softness``."""

    kind: Literal["smooth_l1", "charbonnier"]
    softness: Positive


Reconstruction = Annotated[PlainReconstruction | SoftReconstruction, Field(discriminator="kind")]


class Frequency(Term):
    """L1 of the picture blurred over 3 x 3 pixels, plus ``high`` times L1 of the rest."""

    high: NonNegative


class Kl(Term):
    """KL divergence of the posterior from N(0, 1); the decoder is then given samples of the posterior.

    ``mean`` over dimensions means the same at every resolution; the weight of a ``sum`` pulls C x h x w times harder.
    Each dimension costs at least ``free_bits`` (nats), below which it is not pulled.
    """

    reduce: Literal["mean", "sum"]
    free_bits: NonNegative


class Histogram(Term):
    """Distance of cumulative histograms of each colour channel, of so many bins."""

    bins: Count


class LpipsFeatures(Params):
    """LPIPS: AlexNet's or VGG's, from a local folder with ``model.safetensors``; nothing is downloaded."""

    kind: Literal["lpips"]
    folder: str


class OwnFeatures(Params):
    """Layers of the encoder of an autoencoder of this project: the stage's parent."""

    kind: Literal["own_encoder"]


class Perceptual(Term):
    """Distance between features of the two pictures."""

    features: Annotated[LpipsFeatures | OwnFeatures, Field(discriminator="kind")]


class R1(Params):
    """gamma / 2 times the squared gradient at real samples; at every ``every``-th update, ``every`` times as much."""

    gamma: Positive
    every: Count


class LeCamParams(Params):
    """Weight of the LeCam regularisation, and decay of its running means."""

    weight: Positive
    decay: BelowOne


class InstanceNoise(Params):
    """Noise on what the discriminator sees, of deviation std * decay ** update."""

    std: Positive
    decay: Share


class Balance(Params):
    """The adversarial weight times the ratio of the two gradients in the decoder's last layer, at most ``most``."""

    most: Positive


class Adversarial(Term):
    """A game against the discriminator. Until ``warmup.start`` the discriminator trains alone."""

    game: Literal["hinge", "relativistic"]
    balance: Balance | None
    r1: R1 | None
    lecam: LeCamParams | None
    instance_noise: InstanceNoise | None


class ChannelPrefix(Params):
    """Of a ``share`` of the samples only the first channels are decoded: from ``least`` to all of them."""

    share: Share
    least: Count


class MaskedLatents(Params):
    """Of a ``share`` of the samples, a share ``ratio`` of the places is hidden from the decoder."""

    share: Share
    ratio: BelowOne


class Losses(Params):
    """The terms; at least one. Without ``reconstruction`` the training is adversarial only."""

    reconstruction: Reconstruction | None
    frequency: Frequency | None
    kl: Kl | None
    contrast: Term | None
    color: Term | None
    histogram: Histogram | None
    perceptual: Perceptual | None
    temporal: Term | None
    channel_prefix: ChannelPrefix | None
    masked_latents: MaskedLatents | None

    def shown(self) -> list[Term]:
        """Terms that compare a reconstruction with its clip."""
        terms = (
            self.reconstruction,
            self.frequency,
            self.contrast,
            self.color,
            self.histogram,
            self.perceptual,
            self.temporal,
        )
        return [term for term in terms if term is not None]
