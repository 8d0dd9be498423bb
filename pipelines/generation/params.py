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


class Validation(Params):
    """Held-out clips, each with its own fixed noise, at ``levels`` fixed sigmas spread over the trained range.

    ``prompts`` of them are also sampled at every validation, with fixed noise; 0: none.
    """

    clips: Count
    levels: Count
    prompts: Whole


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
    """A block per phase that the stage trains; the motion stage takes its identity phase from the parent."""

    identity: Sampling | None
    motion: Sampling | None


class AnchoredFlowParams(Params):
    """Sections ``anchored_flow_identity`` and ``anchored_flow_motion``; a range across the junction is unified mode."""

    denoiser: Denoiser
    anchor: Anchor
    sigma_range: Pair
    draw: Draw
    loss_weights: LossWeights
    motion_gain: MotionGain
    prompt_dropout: Share
    class_dropout: Share
    class_balance: Share
    sampling: AnchoredSampling
    validation: Validation
    training: Training

    @property
    def has_identity(self) -> bool:
        """Whether the range reaches above the junction."""
        return self.sigma_range[1] > self.anchor.junction

    @property
    def has_motion(self) -> bool:
        """Whether the range reaches below the junction."""
        return self.sigma_range[0] < self.anchor.junction

    @model_validator(mode="after")
    def _nothing_is_idle(self) -> AnchoredFlowParams:
        low, high = self.sigma_range
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(f"sigma_range [{low}, {high}] must be two rising numbers in [0, 1]")
        for phase, trained, side in (("identity", self.has_identity, "above"), ("motion", self.has_motion, "below")):
            weight = getattr(self.loss_weights, phase)
            if (weight > 0) != trained:
                verb = "reaches" if trained else "does not reach"
                raise ValueError(
                    f"sigma_range [{low}, {high}] {verb} {side} the junction {self.anchor.junction}, but "
                    f"loss_weights.{phase} is {weight}: a phase has a weight exactly when it is trained"
                )
            if (getattr(self.sampling, phase) is not None) != trained:
                wanted = "needs a block" if trained else "must be null"
                verb = "reaches" if trained else "does not reach"
                raise ValueError(
                    f"sampling.{phase} {wanted}: the range {verb} {side} the junction {self.anchor.junction}"
                )
        return self
