"""Blocks of ``training`` from entries of seed D's guide: optimizers, schedules, and what ends a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.fluxflow_config import METRICS
from pipelines.params import ParamsError
from pipelines.profile import Whole

SMOOTHED_OVER = 20
"""Values over which the guide averages a loss before it compares it with a threshold."""


def optimizer(entry: Mapping[str, Any], rate: float) -> Whole:
    """A block ``optimizer`` of an entry of the guide's.

    Raises:
        ParamsError: a kind that neither knows.
    """
    kind = str(entry.get("type") or entry.get("optimizer_type") or "AdamW")
    values = {"learning_rate": float(entry.get("lr", rate)), "weight_decay": float(entry.get("weight_decay", 0.01))}
    betas = {"betas": [float(one) for one in entry.get("betas", (0.9, 0.999))]}
    momentum = {"momentum": float(entry.get("momentum", 0.0))}
    match kind:
        case "AdamW" | "Adam" if kind == "Adam" or entry.get("amsgrad"):  # the one that has amsgrad
            return Whole(name="adam", **values, **betas, amsgrad=bool(entry.get("amsgrad", False)))
        case "AdamW" | "Lion":
            return Whole(name=kind.lower(), **values, **betas)
        case "SGD":
            return Whole(name="sgd", **values, **momentum, nesterov=bool(entry.get("nesterov", False)))
        case "RMSprop":
            return Whole(name="rmsprop", **values, **momentum, smoothing=float(entry.get("alpha", 0.99)))
    raise ParamsError(f"optimizer {kind!r}: no equivalent; there are AdamW, Adam, Lion, SGD, RMSprop.")


def schedule(entry: Mapping[str, Any], floor: float) -> Whole:
    """A block ``schedule`` of an entry of the guide's, whose rates are factors of the first.

    Raises:
        ParamsError: a kind that neither knows.
    """
    kind = str(entry.get("type") or entry.get("scheduler_type") or "CosineAnnealingLR")
    low = float(entry.get("eta_min_factor", floor))
    match kind:
        case "CosineAnnealingLR":
            return Whole(shape="cosine", warmup_steps=0, floor=low)
        case "LinearLR":
            return Whole(shape="linear", warmup_steps=0, floor=float(entry.get("end_factor", low)))
        case "ConstantLR":
            return Whole(shape="constant", warmup_steps=0)
        case "ExponentialLR":
            return Whole(shape="exponential", warmup_steps=0, factor=float(entry.get("gamma", 0.999)), floor=low)
        case "StepLR":
            every, factor = int(entry.get("step_size", 1000)), float(entry.get("gamma", 0.1))
            return Whole(shape="step", warmup_steps=0, every=every, factor=factor)
        case "ReduceLROnPlateau":
            watched = {"metric": "loss/autoencoder", "smoothed_over": SMOOTHED_OVER, "min_change": 1e-4}
            waits = {"patience": int(entry.get("patience", 10)), "factor": float(entry.get("factor", 0.1))}
            return Whole(shape="reduce_on_plateau", warmup_steps=0, floor=low, **watched, **waits)
    known = "CosineAnnealingLR, LinearLR, ConstantLR, ExponentialLR, StepLR, ReduceLROnPlateau"
    raise ParamsError(f"scheduler {kind!r}: no equivalent; there are {known}.")


def stop_when(step: Mapping[str, Any]) -> Whole | None:
    """``stop_when`` of ``stop_condition`` or ``transition_on``.

    Raises:
        ParamsError: a loss that there is not.
    """
    rule = step.get("stop_condition") or step.get("transition_on") or {}
    threshold = rule.get("threshold", rule.get("value"))
    if rule.get("mode") == "epoch" or threshold is None:
        return None
    name = str(rule.get("loss_name") or rule.get("metric"))
    if name not in METRICS:
        raise ParamsError(f"step {step['name']}: threshold on {name!r}; losses are {', '.join(METRICS)}.")
    return Whole(metric=METRICS[name], below=float(threshold), smoothed_over=SMOOTHED_OVER)
