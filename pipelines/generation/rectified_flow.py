"""Stage rectified_flow: velocity regression on straight paths between latents and noise (seed B, arXiv:2209.03003)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pipelines.flow import path, sigmas
from pipelines.flow.guidance import drop_prompts, dropped
from pipelines.flow.params import Draw
from pipelines.flow.sampling import Phase
from pipelines.generation.latents import Latents, TokenCount, token_counter
from pipelines.generation.params import RectifiedFlowParams
from pipelines.generation.trained import finish, new_denoiser
from pipelines.generation.validation import FixedLevels, agreement
from pipelines.training.loop import train as run_training
from pipelines.training.objective import Batch, LossOutput
from pipelines.training.run import Run


class RectifiedFlow:
    """E || v(x_sigma, sigma, prompt) - (eps - x_0) ||^2, per sample the mean over all elements."""

    trained: tuple[str, ...] = ("denoiser",)
    reads: tuple[str, ...] = ("latents", "prompt_embeds")

    def __init__(
        self, denoiser: nn.Module, draw: Draw, prompt_dropout: float, empty_prompt: Tensor, tokens: TokenCount
    ) -> None:
        self.denoiser = denoiser
        self.draw, self.prompt_dropout, self.empty_prompt, self.tokens = draw, prompt_dropout, empty_prompt, tokens

    def losses(self, batch: Batch, step: int) -> dict[str, LossOutput]:
        """One draw of noise and sigma per sample; prompts dropped per sample."""
        latents = batch["latents"]
        sigma, weight = sigmas.drawn(self.draw, len(latents), self.tokens(latents), latents.device)
        noise = torch.randn_like(latents)
        drop = dropped(len(latents), self.prompt_dropout, latents.device)
        embeds, mask = drop_prompts(batch["prompt_embeds"], batch["prompt_mask"], self.empty_prompt, drop)
        predicted = self.denoiser(path.noised(latents, noise, sigma), sigma, prompt_embeds=embeds, prompt_mask=mask)
        target = path.velocity(latents, noise)
        loss = path.per_sample((predicted - target).square()) * weight
        return {"denoiser": LossOutput(loss, sigma[:, 0], monitors=agreement(predicted, target))}


def held_out_error(denoiser: nn.Module, fixed: FixedLevels) -> tuple[Tensor, Tensor, Tensor]:
    """Squared error per sample and level, and what was predicted and wanted, on the fixed held-out draws."""
    x = path.noised(fixed.latents, fixed.noise, fixed.sigma)
    target = path.velocity(fixed.latents, fixed.noise)
    predicted = fixed.predict(denoiser, x)
    return path.per_sample((predicted - target).square()), predicted, target


def train(params: RectifiedFlowParams, latents: Path, out: Path, metrics: Path, plots: Path) -> None:
    """Train a prompt-conditioned flow on the latents, and draw samples of held-out prompts in false colour.

    Raises:
        StageError: the latents lack a field, or do not fit the denoiser.
    """
    data = Latents(latents)
    data.require(RectifiedFlow.reads, "rectified_flow", params.denoiser)
    run = Run.open(params, {"latents": latents}, out=out, metrics=metrics, plots=plots)
    denoiser = new_denoiser(params.denoiser, data)
    empty = data.empty_prompt.to(run.device)
    objective = RectifiedFlow(denoiser, params.draw, params.prompt_dropout, empty, token_counter(params.denoiser.patch))
    fixed = FixedLevels.of(data.held_out(params.validation.clips, run.device), params.validation.levels, (0.0, 1.0))

    def validate(_step: int) -> dict[str, float]:
        with run.ema_weights("denoiser"):
            return fixed.numbers(*held_out_error(denoiser, fixed))

    run_training(objective, data.batches(objective.reads, params.training), run, validate)
    finish(run, data, denoiser, [("", Phase(denoiser, params.sampling))], fixed, held_out_error)
