"""Stage rectified_flow: velocity regression on straight paths between latents and noise (seed B, arXiv:2209.03003)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pipelines.flow import first_frame, path, sigmas
from pipelines.flow.guidance import drop_prompts, dropped
from pipelines.flow.params import Draw
from pipelines.flow.sampling import Phase
from pipelines.generation.fixed_prompts import FixedPrompts
from pipelines.generation.latents import Latents, TokenCount, token_counter
from pipelines.generation.params import RectifiedFlowParams
from pipelines.generation.parent import flow_of
from pipelines.generation.trained import finish, new_denoiser
from pipelines.generation.validation import FixedLevels, agreement
from pipelines.models.autoencoder import load_autoencoder, require_lone_first_frame
from pipelines.stage import StageError
from pipelines.training.loop import train as run_training
from pipelines.training.objective import Batch, LossOutput
from pipelines.training.run import Run


class RectifiedFlow:
    """E || v(x_sigma, sigma, prompt) - (eps - x_0) ||^2, per sample the mean over all elements."""

    trained: tuple[str, ...] = ("denoiser",)
    reads: tuple[str, ...] = ("latents", "prompt_embeds")

    def __init__(
        self,
        denoiser: nn.Module,
        draw: Draw,
        prompt_dropout: float,
        empty_prompt: Tensor,
        tokens: TokenCount,
        first_frame_share: float = 0.0,
    ) -> None:
        self.denoiser = denoiser
        self.draw, self.prompt_dropout, self.empty_prompt, self.tokens = draw, prompt_dropout, empty_prompt, tokens
        self.first_frame_share = first_frame_share

    def losses(self, batch: Batch, step: int) -> dict[str, LossOutput]:
        """One draw of noise and sigma per sample; prompts dropped, and first frames given, per sample."""
        latents = batch["latents"]
        sigma, weight = sigmas.drawn(self.draw, len(latents), self.tokens(latents), latents.device)
        noise = torch.randn_like(latents)
        drop = dropped(len(latents), self.prompt_dropout, latents.device)
        embeds, mask = drop_prompts(batch["prompt_embeds"], batch["prompt_mask"], self.empty_prompt, drop)
        level, counted = sigma, None
        if self.first_frame_share:
            given = dropped(len(latents), self.first_frame_share, latents.device)
            level = first_frame.levels(sigma, latents.shape[2], given)
            counted = first_frame.counted(latents.shape[2], given)
        predicted = self.denoiser(path.noised(latents, noise, level), level, prompt_embeds=embeds, prompt_mask=mask)
        target = path.velocity(latents, noise)
        loss = path.per_sample((predicted - target).square(), counted) * weight
        return {"denoiser": LossOutput(loss, sigma[:, 0], monitors=agreement(predicted, target))}


def held_out_error(denoiser: nn.Module, fixed: FixedLevels) -> tuple[Tensor, Tensor, Tensor]:
    """Squared error per sample and level, and what was predicted and wanted, on the fixed held-out draws."""
    x = path.noised(fixed.latents, fixed.noise, fixed.sigma)
    target = path.velocity(fixed.latents, fixed.noise)
    predicted = fixed.predict(denoiser, x)
    return path.per_sample((predicted - target).square()), predicted, target


def held_out_from_first_frame(denoiser: nn.Module, fixed: FixedLevels) -> dict[str, float]:
    """Held-out loss of the other frames when the first one is given."""
    frames = fixed.latents.shape[2]
    everyone = torch.ones(len(fixed.sigma), dtype=torch.bool, device=fixed.sigma.device)
    given = replace(fixed, sigma=first_frame.levels(fixed.sigma, frames, everyone))
    _, predicted, target = held_out_error(denoiser, given)
    error = path.per_sample((predicted - target).square(), first_frame.counted(frames, everyone))
    return {"validation/loss_from_first_frame": float(error.mean())}


def train(
    params: RectifiedFlowParams,
    latents: Path,
    out: Path,
    metrics: Path,
    plots: Path,
    autoencoder: Path | None = None,
    init: Path | None = None,
) -> None:
    """Train a prompt-conditioned flow on the latents, and draw samples of held-out prompts.

    ``autoencoder`` decodes the samples that are shown during training; without it they are in false colour. ``init``: a
    checkpoint of such a flow to go on from, as a later step of staged fine-tuning does, also at another size.

    Raises:
        StageError: the latents lack a field, do not fit the denoiser or the flow in ``init``, or have one frame where a
            first one is given; or the autoencoder's first latent frame does not stand for the first frame alone.
    """
    data = Latents(latents)
    data.require(RectifiedFlow.reads, "rectified_flow", params.denoiser)
    if params.first_frame_share and data.shape[1] < 2:
        raise StageError(
            f"{latents}: clips of one latent frame, so rectified_flow.first_frame_share {params.first_frame_share} "
            "leaves nothing to learn; set it to 0.0."
        )
    if params.first_frame_share and autoencoder is not None:
        require_lone_first_frame(load_autoencoder(autoencoder), "rectified_flow.first_frame_share")
    run = Run.open(params, {"latents": latents}, out=out, metrics=metrics, plots=plots, parent=init)
    denoiser = new_denoiser(params.denoiser, data) if init is None else flow_of(init, params.denoiser, data)
    empty = data.empty_prompt.to(run.device)
    share = params.first_frame_share
    tokens = token_counter(denoiser.patch)
    objective = RectifiedFlow(denoiser, params.draw, params.prompt_dropout, empty, tokens, first_frame_share=share)
    held_out = data.held_out(params.validation.clips, run.device)
    fixed = FixedLevels.of(held_out, params.validation.levels, (0.0, 1.0), params.training.micro_batch)

    walked = Phase(denoiser, params.sampling, first_frame=share > 0)
    prompts = FixedPrompts(run, data, params.validation.prompts, denoiser.prompt_length, autoencoder)

    def validate(step: int) -> dict[str, float]:
        with run.ema_weights("denoiser"):
            prompts.show(step, [("", walked)])
            return fixed.numbers(*held_out_error(denoiser, fixed))

    run_training(objective, data.batches(objective.reads, params.training), run, validate)

    def from_first_frame() -> dict[str, float]:
        return held_out_from_first_frame(denoiser, fixed) if share else {}

    finish(run, data, denoiser, [("", walked)], fixed, held_out_error, from_first_frame)
