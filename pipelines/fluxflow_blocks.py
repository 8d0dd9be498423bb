"""Blocks of ``training`` from entries of seed D's guide: optimizers, schedules, and what ends a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.fluxflow_config import METRICS
from pipelines.params import ParamsError
from pipelines.profile import Whole

SMOOTHED_OVER = 20
"""Values over which the guide averages a loss before it compares it with a threshold."""
READ = {
    "AdamW": {"lr", "betas", "weight_decay", "amsgrad"},
    "Adam": {"lr", "betas", "weight_decay", "amsgrad"},
    "Lion": {"lr", "betas", "weight_decay"},
    "SGD": {"lr", "weight_decay", "momentum", "nesterov"},
    "RMSprop": {"lr", "weight_decay", "momentum", "alpha"},
    "CosineAnnealingLR": {"eta_min_factor"},
    "LinearLR": {"eta_min_factor", "end_factor"},
    "ConstantLR": set(),
    "ExponentialLR": {"gamma", "eta_min_factor"},
    "StepLR": {"step_size", "gamma"},
    "ReduceLROnPlateau": {"patience", "factor", "eta_min_factor"},
}
"""Which values an optimizer or a schedule has."""
TYPES = ("type", "optimizer_type", "scheduler_type")


def kind_of(entry: Mapping[str, Any], usual: str) -> str:
    """Which optimizer or schedule an entry asks for."""
    return next((str(entry[name]) for name in TYPES if name in entry), usual)


def unread(entry: Mapping[str, Any], usual: str) -> dict[str, str]:
    """Values of an entry that its optimizer or schedule does not have, and that it has not."""
    kind = kind_of(entry, usual)
    return {key: f"{kind} has none" for key in entry if key not in TYPES and key not in READ.get(kind, entry)}


def optimizer(entry: Mapping[str, Any], rate: float) -> Whole:
    """A block ``optimizer`` of an entry of the guide's.

    Raises:
        ParamsError: a kind that neither knows.
    """
    kind = kind_of(entry, "AdamW")
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
    kind = kind_of(entry, "CosineAnnealingLR")
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


def measured(step: Mapping[str, Any]) -> set[str]:
    """The losses, by our names, that a step of the guide has; the first may not be watched where it is none."""
    coder = step.get("train_vae") or (step.get("gan_training") and not step.get("train_diff_full"))
    found = {"loss/autoencoder"} if coder else {"loss/denoiser"}
    found |= {"loss/reconstruction"} if coder and step.get("train_reconstruction", True) else set()
    found |= {"loss/kl"} if coder and step.get("kl_beta", 1e-4) else set()
    found |= {"loss/perceptual"} if coder and step.get("use_lpips") and step.get("lambda_lpips", 0.1) else set()
    return found | ({"loss/adversarial", "loss/discriminator"} if coder and step.get("gan_training") else set())


def epochs_of(step: Mapping[str, Any]) -> int:
    """How many epochs a step has at most: its own, or fewer where ``transition_on`` says so."""
    rule = step.get("transition_on") or {}
    ends = rule.get("value") if rule.get("mode") == "epoch" else rule.get("max_epochs")
    return int(min(one for one in (step.get("n_epochs"), ends, None if ends or "n_epochs" in step else 1) if one))


def stop_when(step: Mapping[str, Any]) -> Whole | None:
    """``stop_when`` of ``stop_condition`` or ``transition_on``.

    Raises:
        ParamsError: a loss that there is not, or not in this step, or no threshold.
    """
    rule = step.get("stop_condition") or step.get("transition_on") or {}
    if not rule or rule.get("mode") == "epoch":
        return None
    bound, name = rule.get("threshold", rule.get("value")), str(rule.get("loss_name") or rule.get("metric"))
    if bound is None:
        raise ParamsError(f"step {step['name']}: a threshold on {name} without a number; state threshold.")
    if name not in METRICS:
        raise ParamsError(f"step {step['name']}: threshold on {name!r}; losses are {', '.join(METRICS)}.")
    there = measured(step)
    if METRICS[name] not in there:
        known = ", ".join(one for one, ours in METRICS.items() if ours in there)
        raise ParamsError(f"step {step['name']}: threshold on {name!r}, which this step does not have; it has {known}.")
    return Whole(metric=METRICS[name], below=float(bound), smoothed_over=SMOOTHED_OVER)
