"""Anchored flow matching in two stages (seed A): identity from noise to the anchor, motion from the anchor to frames.

One function trains both: the stage is a matter of ``loss_weights`` alone. With a weight above the junction it is the
identity stage, with one below it the motion stage (which starts from the identity stage's checkpoint and keeps that
network beside its own for the way above the junction), with both the unified mode for comparison. Losses are of
velocities on each phase's own clock (:mod:`pipelines.flow.anchored`), so equal weights mean equal parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pipelines.flow import anchored, path, sigmas
from pipelines.flow.guidance import drop_prompts, dropped
from pipelines.flow.sampling import Phase
from pipelines.generation.classes import gate, read_classes
from pipelines.generation.fixed_prompts import FixedPrompts
from pipelines.generation.latents import Latents, TokenCount, token_counter
from pipelines.generation.params import AnchoredFlowParams
from pipelines.generation.parent import Parent
from pipelines.generation.trained import Named, finish, new_denoiser, preview
from pipelines.generation.validation import FixedLevels, agreement
from pipelines.models.denoiser import VideoDenoiser
from pipelines.training.loop import train as run_training
from pipelines.training.objective import Batch, LossOutput
from pipelines.training.run import Run

FORMULA = "afm_baseline/explained_by_formula"
"""What the formula that knows no data explains of the motion phase."""
RATIO_SAMPLES = 24
"""Validation prompts whose samples ``local_vs_global_ratio`` is measured on, once, at the end."""


class AnchoredFlow:
    """weight(phase) (|shared error|^2 + gain |frame-deviation error|^2), per sample, on the path through the anchor.

    ``shared`` is the error's mean over frames, the deviation what is left; with gain 1 this is the squared error.
    """

    trained: tuple[str, ...] = ("denoiser",)
    reads: tuple[str, ...] = ("latents", "prompt_embeds", "pseudo_class")

    def __init__(
        self,
        denoiser: nn.Module,
        params: AnchoredFlowParams,
        empty_prompt: Tensor,
        tokens: TokenCount,
        is_start: bool = False,
    ) -> None:
        self.denoiser, self.params = denoiser, params
        self.empty_prompt, self.tokens = empty_prompt, tokens
        self.is_start = is_start

    def motion_gain(self, step: int) -> float:
        """Weight of the frame-deviation part at this step: a function of step and params alone."""
        gain = self.params.motion_gain
        if gain is None:
            return 1.0
        share = min(1.0, step / gain.warmup_steps) if gain.warmup_steps else 1.0
        return 1.0 + share * (gain.value - 1.0)

    def conditions(self, batch: Batch) -> dict[str, Tensor]:
        """Prompt and class of the batch, each dropped per sample and independently."""
        count, device = len(batch["latents"]), batch["latents"].device
        no_prompt = dropped(count, self.params.prompt_dropout, device)
        no_class = dropped(count, self.params.class_dropout, device)
        embeds, mask = drop_prompts(batch["prompt_embeds"], batch["prompt_mask"], self.empty_prompt, no_prompt)
        known = batch["pseudo_class"].masked_fill(no_class, -1)
        return {"prompt_embeds": embeds, "prompt_mask": mask, "pseudo_class": known}

    def losses(self, batch: Batch, step: int) -> dict[str, LossOutput]:
        """One draw of anchor, shared noise and sigma per sample."""
        latents, params = batch["latents"], self.params
        tokens = self.tokens(latents if params.has_motion else latents[:, :, :1])
        sigma, importance = sigmas.drawn(params.draw, len(latents), tokens, latents.device, params.levels)
        noise, unit_noise = torch.randn_like(latents[:, :, :1]), torch.randn_like(latents[:, :, :1])
        own = torch.randn_like(latents) if params.has_motion else latents
        x, target = on_the_path(params, latents, noise, unit_noise, own, sigma)
        predicted = velocity_field(params, self.denoiser)(x, sigma, **self.conditions(batch))

        shared, moving = anchored.split_over_frames(predicted - target)
        gain = self.motion_gain(step)
        error = path.per_sample(shared.square()) + gain * path.per_sample(moving.square())
        local, weights = is_local(params, sigma), params.loss_weights
        loss = torch.where(local, weights.motion, weights.identity) * importance * error
        raw = path.per_sample((predicted - target).square()).detach()
        monitors = agreement(predicted, target) | self.monitors(raw, loss.detach(), sigma[:, 0], step)
        return {"denoiser": LossOutput(loss, sigma[:, 0], monitors=monitors)}

    def monitors(self, raw: Tensor, loss: Tensor, sigma: Tensor, step: int) -> dict[str, Tensor]:
        """Seed A's numbers. A raw loss is absent where no sample of the batch is in its phase."""
        low, high = self.params.levels
        local = is_local(self.params, sigma[:, None])
        numbers: dict[str, float | Tensor] = {
            "afm/current_stage": self.params.stage,
            "afm/motion_gain": self.motion_gain(step),
            "afm/t_range_min": low,
            "afm/t_range_max": high,
            "afm/samples_in_range": ((sigma >= low) & (sigma <= high)).float().mean(),
            "afm_loss/active_loss": loss.mean(),
        }
        if self.params.stage == 1:
            numbers["afm/progress_to_transition"] = (step + 1) / self.params.training.steps
        if step == 0 and self.is_start:
            numbers["afm/stage_transition"] = 1.0
        if bool(local.any()):
            numbers["afm_loss/local_raw"] = raw[local].mean()
        if not bool(local.all()):
            numbers["afm_loss/global_raw"] = raw[~local].mean()
        return {name: torch.as_tensor(value) for name, value in numbers.items()}


def is_local(params: AnchoredFlowParams, sigma: Tensor) -> Tensor:
    """Which samples are in the motion phase, bool [B]: of a stage that trains one phase, all or none."""
    if params.has_identity and params.has_motion:
        return anchored.is_local(sigma[:, 0], params.anchor.junction)
    return torch.full((len(sigma),), params.has_motion, device=sigma.device)


def on_the_path(
    params: AnchoredFlowParams, latents: Tensor, noise: Tensor, unit_noise: Tensor, own: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor]:
    """Points of the path and their velocities on the phases' own clocks; ``own`` is noise of each frame's own."""
    place = params.anchor
    anchor = anchored.anchor(latents, place.first_frame_weight, place.noise_std, unit_noise)
    start = anchored.start_of_motion(anchor, place.frame_noise_std, own)
    ends = (latents, anchor, noise, sigma, place.junction, start)
    return anchored.noised(*ends), anchored.velocity(*ends)


def velocity_field(params: AnchoredFlowParams, denoiser: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """(x, sigma, **conditions) -> velocity on the phase's own clock, which is what the denoiser is told."""

    def field(x: Tensor, sigma: Tensor, **conditions: Tensor) -> Tensor:
        told = anchored.clock(sigma, params.anchor.junction)
        if not params.has_motion:
            return anchored.on_one_frame(denoiser)(x, told, **conditions)
        if not params.has_identity:
            return denoiser(x, told, **conditions)
        return anchored.in_both_phases(denoiser, is_local(params, sigma))(x, told, **conditions)

    return field


def held_out_error(
    params: AnchoredFlowParams, denoiser: nn.Module | None, fixed: FixedLevels
) -> tuple[Tensor, Tensor, Tensor]:
    """Unweighted squared error per sample and level, and what was predicted and wanted, on fixed held-out draws.

    Without a network, of the formula that knows no data (:func:`pipelines.flow.anchored.given_away`).
    """
    x, target = on_the_path(params, fixed.latents, fixed.noise[:, :, :1], fixed.unit_noise, fixed.noise, fixed.sigma)
    if denoiser is None:
        predicted = anchored.given_away(x, anchored.clock(fixed.sigma, params.anchor.junction))
    else:
        predicted = fixed.predict(denoiser, x, velocity_field(params, denoiser))
    return path.per_sample((predicted - target).square()), predicted, target


def motion_ratio(made: Tensor, true: Tensor, name: str) -> dict[str, float]:
    """Mean square of what frames add over mean square of what they share, divided by the same of what is true.

    0 is a frozen clip, 1 as much difference between frames as the data has; absent where a divisor is 0 or a value
    is not finite. Of samples it is seed A's ``local_vs_global_ratio`` (SEED_NOTES A.4).
    """
    moving, shared = (float(part.mean()) for part in anchored.frame_variation(made))
    true_moving, true_shared = (float(part.mean()) for part in anchored.frame_variation(true))
    if not (shared > 0 and true_moving > 0 and true_shared > 0):
        return {}
    ratio = (moving / shared) / (true_moving / true_shared)
    return {name: ratio} if math.isfinite(ratio) else {}


def phases(params: AnchoredFlowParams, denoiser: VideoDenoiser, parent: Parent | None) -> list[Named]:
    """The way from noise as far as it is trained: this stage's part, and the parent's where this stage has none."""
    junction, own = params.anchor.junction, "denoiser" if parent is not None and not params.has_identity else ""
    tau, walked = params.anchor.frame_noise_std, list[Named]()
    if params.sampling.identity is not None:
        walked.append((own, Phase(denoiser, params.sampling.identity, 1.0, junction, still=True)))
    elif parent is not None and parent.identity is not None:
        walked.append(("identity", parent.identity))
    if params.sampling.motion is not None:
        walked.append((own, Phase(denoiser, params.sampling.motion, junction, frame_noise_std=tau)))
    return walked


def train(
    params: AnchoredFlowParams,
    latents: Path,
    pseudo_classes: Path,
    diagnostics: Path,
    out: Path,
    metrics: Path,
    plots: Path,
    init: Path | None = None,
    autoencoder: Path | None = None,
) -> None:
    """Train one stage of anchored flow; the motion stage needs ``init``, the identity stage's checkpoint.

    ``autoencoder`` decodes the samples that are shown during training; without it they are in false colour.

    Raises:
        StageError: a gate of the diagnostics failed, ``init`` is missing or does not fit, or the latents do not.
    """
    gate(diagnostics)
    classes, num_classes = read_classes(pseudo_classes, latents)
    data = Latents(latents, classes)
    data.require(AnchoredFlow.reads, "anchored_flow", params.denoiser)
    parent = Parent.read(init, params, data, num_classes)
    inputs = {"latents": latents, "pseudo_classes": pseudo_classes, "diagnostics": diagnostics}
    run = Run.open(params, inputs, out=out, metrics=metrics, plots=plots, parent=init)
    denoiser = parent.denoiser() if parent else new_denoiser(params.denoiser, data, num_classes)
    empty, tokens = data.empty_prompt.to(run.device), token_counter(denoiser.patch)
    objective = AnchoredFlow(denoiser, params, empty, tokens, is_start=parent is not None)
    held_out = data.held_out(params.validation.clips, run.device)
    size, junction = params.training.micro_batch, params.anchor.junction
    fixed = FixedLevels.of(held_out, params.validation.levels, params.levels, size)
    at_junction = FixedLevels.of(held_out, 1, (junction, junction), size) if params.has_motion else None

    def error(network: nn.Module | None, levels: FixedLevels) -> tuple[Tensor, Tensor, Tensor]:
        return held_out_error(params, network, levels)

    walked = phases(params, denoiser, parent)
    others = {"identity": parent.identity_network(run.device)} if parent and walked[0][0] == "identity" else None
    prompts = FixedPrompts(run, data, params.validation.prompts, denoiser.prompt_length, autoencoder)

    def validate(step: int) -> dict[str, float]:
        with run.ema_weights("denoiser"):
            prompts.show(step, walked)
            return {**fixed.numbers(*error(denoiser, fixed)), **departure()}

    def departure() -> dict[str, float]:
        if at_junction is None:
            return {}
        return motion_ratio(*error(denoiser, at_junction)[1:], "validation/ratio_at_junction")

    def at_the_end() -> Mapping[str, float]:
        real, sampled, _ = preview(data, walked, run.device, size, RATIO_SAMPLES)
        numbers = departure() | motion_ratio(sampled, real, "local_vs_global_ratio")
        if not params.has_identity:
            numbers[FORMULA] = fixed.numbers(*error(None, fixed))["explained"]
        return numbers

    run_training(objective, data.batches(objective.reads, params.training, params.class_balance), run, validate)
    rivals = {FORMULA: "a formula without weights, prompt or data"}
    finish(run, data, denoiser, walked, fixed, error, at_the_end, others, rivals)
