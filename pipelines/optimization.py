"""The block ``training`` of a stage: how its networks are optimized, at which precision, and when it ends."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from pipelines.values import BelowOne, Betas, Count, Fraction, Names, NonNegative, Params, Positive, Real, Share, Whole

# ---- optimizers: one block each, only its own knobs ---------------------------------------------------------------


class AdamW(Params):
    """Adam with decoupled weight decay, arXiv:1711.05101."""

    name: Literal["adamw"]
    learning_rate: Positive
    betas: Betas
    weight_decay: NonNegative


class AdamW8Bit(Params):
    """AdamW whose moments are stored in 8 bits, arXiv:2110.02861: bitsandbytes, the extra ``eight-bit``, on a GPU."""

    name: Literal["adamw_8bit"]
    learning_rate: Positive
    betas: Betas
    weight_decay: NonNegative


class Adam(Params):
    """Adam, arXiv:1412.6980; weight decay is part of the gradient. ``amsgrad`` keeps the largest second moment."""

    name: Literal["adam"]
    learning_rate: Positive
    betas: Betas
    weight_decay: NonNegative
    amsgrad: bool


class SGD(Params):
    """Stochastic gradient descent with momentum (0: without), Nesterov's or plain."""

    name: Literal["sgd"]
    learning_rate: Positive
    momentum: BelowOne
    nesterov: bool
    weight_decay: NonNegative

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> SGD:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov changes nothing without momentum; set momentum above 0, or nesterov: false")
        return self


class RMSprop(Params):
    """Gradients over the root of their running mean square, whose memory is ``smoothing``."""

    name: Literal["rmsprop"]
    learning_rate: Positive
    smoothing: BelowOne
    momentum: BelowOne
    weight_decay: NonNegative


class Lion(Params):
    """Sign of an interpolated momentum, arXiv:2302.06675; wants 3 to 10 times less rate and more decay than AdamW."""

    name: Literal["lion"]
    learning_rate: Positive
    betas: Betas
    weight_decay: NonNegative


class Muon(Params):
    """Orthogonalised momentum for matrices (convolution kernels flattened); AdamW for everything else."""

    name: Literal["muon"]
    learning_rate: Positive
    momentum: Share
    weight_decay: NonNegative
    others: AdamW


Optimizer = Annotated[
    AdamW | AdamW8Bit | Adam | SGD | RMSprop | Lion | Muon,
    Field(discriminator="name"),
]


# ---- schedules: learning-rate factor over steps, after a linear warm-up to 1 --------------------------------------


class Constant(Params):
    """Stays at 1."""

    shape: Literal["constant"]
    warmup_steps: Whole


class Falling(Params):
    """A straight line, or half a cosine, from 1 down to ``floor`` at the last step."""

    shape: Literal["linear", "cosine"]
    warmup_steps: Whole
    floor: Share


class Step(Params):
    """Times ``factor`` after every ``every`` steps."""

    shape: Literal["step"]
    warmup_steps: Whole
    every: Count
    factor: Fraction


class Exponential(Params):
    """Times ``factor`` at every step, never below ``floor``."""

    shape: Literal["exponential"]
    warmup_steps: Whole
    factor: Fraction
    floor: Share


class ReduceOnPlateau(Params):
    """Times ``factor``, never below ``floor``, when the smoothed metric has not fallen for ``patience`` values.

    Smoothed is the mean of the last ``smoothed_over`` finite values (per step, or per validation for ``validation/…``);
    it has fallen when it is below the best one by the share ``min_change``.
    """

    shape: Literal["reduce_on_plateau"]
    warmup_steps: Whole
    metric: str
    smoothed_over: Count
    patience: Count
    min_change: BelowOne
    factor: Fraction
    floor: Share


Schedule = Annotated[
    Constant | Falling | Step | Exponential | ReduceOnPlateau,
    Field(discriminator="shape"),
]


# ---- the rest of the block ----------------------------------------------------------------------------------------


class StopBelow(Params):
    """End the run early when the mean of the last ``smoothed_over`` finite values of a metric is below a number."""

    metric: str
    below: Real
    smoothed_over: Count


class StopAbove(Params):
    """End the run early when the mean of the last ``smoothed_over`` finite values of a metric is above a number."""

    metric: str
    above: Real
    smoothed_over: Count


def _side(value: Any) -> str:
    return "stop_above" if "above" in (value if isinstance(value, dict) else vars(value)) else "stop_below"


StopWhen = Annotated[
    Annotated[StopBelow, Tag("stop_below")] | Annotated[StopAbove, Tag("stop_above")],
    Discriminator(_side),
]


class Ema(Params):
    """Exponential moving average of the weights in float32; decay warms up as (1 + step) / (warmup + step)."""

    decay: BelowOne
    warmup_steps: Count


class Lora(Params):
    """Low-rank adaptation W + (alpha / rank) B A of the linear layers whose names end in one of ``targets``."""

    rank: Count
    alpha: Positive
    targets: Annotated[Names, Field(min_length=1)]


class NetworkTraining(Params):
    """Optimizer and schedule of one network where it has its own."""

    optimizer: Optimizer
    schedule: Schedule


class Training(Params):
    """What every training stage states. ``batch_size`` is global; ``micro_batch`` is per process and forward.

    ``precision: auto`` is bf16 where the device has instructions for it, else fp32; the checkpoint says which it was.
    """

    seed: Whole
    steps: Count
    batch_size: Count
    micro_batch: Count
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    gradient_checkpointing: bool
    compile: bool
    max_grad_norm: Positive
    ema: Ema | None
    optimizer: Optimizer
    schedule: Schedule
    per_network: dict[str, NetworkTraining] | None
    stop_when: StopWhen | None
    log_every: Count
    save_every: Count
    validate_every: Count

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Training:
        if self.batch_size % self.micro_batch:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}; change one of them"
            )
        return self
