"""What all generators do around training: build the denoiser, and at the end measure, sample, draw and write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.flow.sampling import Phase, seeded_noise, walk
from pipelines.generation import pictures
from pipelines.generation.latents import Latents
from pipelines.generation.params import DenoiserParams
from pipelines.generation.validation import CONDITIONS, FixedLevels
from pipelines.models.denoiser import VideoDenoiser
from pipelines.stage import write_json
from pipelines.training.run import Run

PREVIEWS = 6
"""Held-out prompts in ``samples.png``."""

Error = Callable[[nn.Module, FixedLevels], tuple[Tensor, Tensor, Tensor]]
Named = tuple[str, Phase]
"""A phase and the folder of its network inside the checkpoint ("" is the root)."""


def new_denoiser(size: DenoiserParams, data: Latents, num_classes: int | None = None) -> VideoDenoiser:
    """A denoiser of this size for these latents, with weights from torch's generator."""
    return VideoDenoiser.build(
        channels=data.shape[0],
        text_dim=data.manifest.text_encoder.dim,
        heads=size.heads,
        head_dim=size.head_dim,
        layers=size.layers,
        feed_forward=size.feed_forward,
        patch=size.patch,
        text_length=size.text_length,
        num_classes=num_classes,
    )


def description(phases: Sequence[Named], data: Latents) -> dict[str, Any]:
    """``generator.json``: which network walks which part of the way, how, and for which latents."""
    walked = [
        {
            "network": network,
            "start": phase.start,
            "end": phase.end,
            "still": phase.still,
            "sampling": phase.sampling.model_dump(mode="json"),
        }
        for network, phase in phases
    ]
    return {"phases": walked, "latents": data.facts()}


def preview(data: Latents, phases: Sequence[Named], device: torch.device) -> tuple[Tensor, Tensor, list[str]]:
    """True and sampled latents [N, C, T, H, W] of the first held-out prompts, and the prompts; noise seeds 0, 1, 2 …"""
    batch = data.held_out(PREVIEWS, device)
    count = len(batch["latents"])
    shared = any(phase.still for _, phase in phases)
    noise = seeded_noise(range(count), data.shape, shared).to(device)
    conditions = {name: batch[name] for name in CONDITIONS if name in batch}
    sampled = walk([phase for _, phase in phases], noise, conditions, data.empty_prompt.to(device))
    return batch["latents"].cpu(), sampled.cpu(), batch["prompt"]


def finish(
    run: Run,
    data: Latents,
    denoiser: VideoDenoiser,
    phases: Sequence[Named],
    fixed: FixedLevels,
    error: Error,
    extra: Callable[[], Mapping[str, float]] = dict,
    others: Mapping[str, VideoDenoiser] | None = None,
) -> None:
    """Held-out numbers of raw and averaged weights, pictures, checkpoint. ``extra`` gives further held-out numbers."""
    if run.is_main:
        results = {"validation/loss_raw_weights": float(error(denoiser, fixed)[0].mean())}
        with run.ema_weights("denoiser"):
            denoiser.eval()
            measured = error(denoiser, fixed)
            numbers = fixed.numbers(*measured)
            monitors = ("velocity_cos_sim", "pred_velocity_mag", "target_velocity_mag")
            results |= {name if name in monitors else f"validation/{name}": value for name, value in numbers.items()}
            results |= dict(extra())
            pictures.draw_samples(*preview(data, phases, run.device), run.name, run.plots / "samples.png")
            pictures.draw_levels(fixed, measured[0], measured[2], run.name, run.plots / "loss_by_sigma.png")

        def describe(folder: Path) -> None:
            write_json(folder / "generator.json", description(phases, data))

        run.finish({"denoiser": denoiser, **(others or {})}, results, describe)
    run.accelerator.wait_for_everyone()
