"""Parameters of the generators. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Tag, model_validator

from pipelines.flow.params import Anchor, Draw, LossWeights, Sampling
from pipelines.params import Count, Lora, Pair, Params, Positive, Share, Training, Whole


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _even(channels: int) -> int:
    if channels % 2:
        raise ValueError("must be even, because positions turn channels in pairs")
    return channels


class DenoiserParams(Params):
    """Size of the Wan transformer that is trained from scratch; channels and text width come from the manifest."""

    heads: Count
    head_dim: Annotated[Count, AfterValidator(_even)]
    layers: Count
    feed_forward: Count
    patch: Annotated[tuple[Count, Count, Count], BeforeValidator(_tuple)]
    text_length: Count


class PretrainedWeights(Params):
    """A diffusers transformer by folder or hub name, and how its weights are held in memory."""

    name: str
    revision: str | None
    subfolder: str | None
    weights: Literal["fp32", "bf16", "int8", "nf4"]


class Adapter(Params):
    """Only a low-rank adapter is trained; the pretrained weights stay."""

    lora: Lora


class PretrainedDenoiserParams(Params):
    """A pretrained transformer; channels, text width and patch come from its own config."""

    pretrained: PretrainedWeights
    trained: Literal["full"] | Adapter
    text_length: Count

    @model_validator(mode="after")
    def _weights_can_be_trained(self) -> PretrainedDenoiserParams:
        if self.trained == "full" and self.pretrained.weights != "fp32":
            raise ValueError(
                f"trained: full needs pretrained.weights: fp32, because {self.pretrained.weights} loses small updates "
                "(training.precision: bf16 makes the forward pass cheap); or train {lora: …}"
            )
        return self


def _is_pretrained(block: Any) -> str:
    named = isinstance(block, PretrainedDenoiserParams) or (isinstance(block, Mapping) and "pretrained" in block)
    return "pretrained" if named else "new"


Denoiser = Annotated[
    Annotated[DenoiserParams, Tag("new")] | Annotated[PretrainedDenoiserParams, Tag("pretrained")],
    Discriminator(_is_pretrained),
]


def _one_line(prompts: tuple[str, ...]) -> tuple[str, ...]:
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise ValueError("an empty prompt; give words, or the number of held-out prompts to show (0: none)")
    return tuple(" ".join(prompt.split()) for prompt in prompts)


class Validation(Params):
    """Held-out clips, each with its own fixed noise, at ``levels`` fixed sigmas spread over the trained range.

    ``prompts`` are sampled at every validation, with fixed noise: so many of the held-out ones (0: none), or prompts in
    words.
    """

    clips: Count
    levels: Count
    prompts: Whole | Annotated[tuple[str, ...], BeforeValidator(_tuple), AfterValidator(_one_line)]


class RectifiedFlowParams(Params):
    """Section ``rectified_flow``."""

    denoiser: Denoiser
    draw: Draw
    prompt_dropout: Share
    first_frame_share: Share
    sampling: Sampling
    validation: Validation
    training: Training


class MotionGain(Params):
    """Weight of the frame-deviation part of the squared error, reached linearly from 1 in ``warmup_steps``."""

    value: Positive
    warmup_steps: Whole


class AnchoredSampling(Params):
    """A block per phase that the stage's samples walk; the motion stage takes its identity phase from the parent."""

    identity: Sampling | None
    motion: Sampling | None


class AnchoredFlowParams(Params):
    """Sections ``anchored_flow_identity``, ``_motion`` and ``_unified``: the weights say which phases are trained.

    ``sigma_range`` narrows the levels that are drawn; None: the whole of every phase that has a weight.
    """

    denoiser: Denoiser
    anchor: Anchor
    loss_weights: LossWeights
    sigma_range: Pair | None
    draw: Draw
    motion_gain: MotionGain | None
    prompt_dropout: Share
    class_dropout: Share
    class_balance: Share
    sampling: AnchoredSampling
    validation: Validation
    training: Training

    @property
    def has_identity(self) -> bool:
        """Whether levels above the junction are trained."""
        return self.loss_weights.identity > 0

    @property
    def has_motion(self) -> bool:
        """Whether levels at and below the junction are trained."""
        return self.loss_weights.motion > 0

    @property
    def levels(self) -> tuple[float, float]:
        """Lowest and highest sigma of training."""
        if self.sigma_range is not None:
            return self.sigma_range
        junction = self.anchor.junction
        return (0.0 if self.has_motion else junction, 1.0 if self.has_identity else junction)

    @property
    def stage(self) -> int:
        """Seed A's stage: 1 leads to the anchor, 2 on from it, 0 is both at once (unified)."""
        if not self.has_identity:
            return 2
        return 1 if self.sampling.motion is None else 0

    @model_validator(mode="after")
    def _nothing_is_idle(self) -> AnchoredFlowParams:
        (low, high), junction = self.levels, self.anchor.junction
        if not (self.has_identity or self.has_motion):
            raise ValueError("loss_weights: both are 0, so nothing would be trained")
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(f"sigma_range [{low}, {high}] must be two rising numbers in [0, 1]")
        for phase, reached, side in (("identity", high > junction, "above"), ("motion", low < junction, "below")):
            trained = getattr(self, f"has_{phase}")
            if reached != trained:
                raise ValueError(
                    f"sigma_range [{low}, {high}] {'reaches' if reached else 'does not reach'} {side} the junction "
                    f"{junction}, but loss_weights.{phase} is {getattr(self.loss_weights, phase)}: a phase has a "
                    "weight exactly when it is trained; null takes the whole of every phase that has one"
                )
        return self

    @model_validator(mode="after")
    def _blocks_have_a_phase(self) -> AnchoredFlowParams:
        sampling, weights = self.sampling, self.loss_weights
        if (sampling.identity is not None) != self.has_identity:
            wanted = "needs a block" if self.has_identity else "must be null"
            raise ValueError(f"sampling.identity {wanted}: loss_weights.identity is {weights.identity}")
        if sampling.motion is None and not self.has_identity:
            raise ValueError(f"sampling.motion needs a block: loss_weights.motion is {weights.motion}")
        if sampling.motion is not None and not self.has_motion:
            raise ValueError("sampling.motion must be null: loss_weights.motion is 0")
        if (self.motion_gain is not None) != self.has_motion:
            wanted = "needs a block" if self.has_motion else "must be null (frames do not differ above the junction)"
            raise ValueError(f"motion_gain {wanted}: loss_weights.motion is {weights.motion}")
        return self
