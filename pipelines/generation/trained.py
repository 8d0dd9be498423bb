"""What all generators do around training: build the denoiser, and at the end measure, sample, draw and write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.data import validation_clips
from pipelines.flow.sampling import Phase, frame_noise, seeded_noise, walk
from pipelines.generation import pictures
from pipelines.generation.latents import Latents
from pipelines.generation.params import Adapter, Denoiser, DenoiserParams, PretrainedDenoiserParams
from pipelines.generation.validation import CONDITIONS, FixedLevels
from pipelines.models.denoiser import VideoDenoiser
from pipelines.models.lora import add_lora
from pipelines.models.pretrained_denoiser import Origin
from pipelines.record import baseline
from pipelines.stage import say, write_json
from pipelines.training.generator import CLOCKS
from pipelines.training.run import Run

PREVIEWS = 6
"""Held-out prompts in ``samples.png``."""

Error = Callable[[nn.Module, FixedLevels], tuple[Tensor, Tensor, Tensor]]
Named = tuple[str, Phase]
"""A phase and the folder of its network inside the checkpoint ("" is the root)."""


def new_denoiser(block: Denoiser, data: Latents, num_classes: int | None = None) -> VideoDenoiser:
    """The denoiser of this block for these latents: new weights, and those of an adapter, from torch's generator.

    Raises:
        StageError: a pretrained one cannot be loaded, or has no layer of the adapter's targets.
    """
    if isinstance(block, DenoiserParams):
        sizes = block.model_dump()
        dim = data.manifest.text_encoder.dim
        return VideoDenoiser.build(channels=data.shape[0], text_dim=dim, num_classes=num_classes, **sizes)
    return _pretrained(block, data, num_classes)


def _pretrained(block: PretrainedDenoiserParams, data: Latents, num_classes: int | None) -> VideoDenoiser:
    origin = Origin(**block.pretrained.model_dump())
    transformer = origin.load()
    adapted = isinstance(block.trained, Adapter)
    if isinstance(block.trained, Adapter):
        add_lora(transformer, block.trained.lora)
    base = origin if adapted else None
    return VideoDenoiser(transformer, block.text_length, num_classes, data.extent, base).train()


def description(phases: Sequence[Named], data: Latents) -> dict[str, Any]:
    """``generator.json``: what it is told, which network walks which part of the way, how, for which latents."""
    walked = [
        {
            "network": network,
            "start": phase.start,
            "end": phase.end,
            "still": phase.still,
            "first_frame": phase.first_frame,
            "frame_noise_std": phase.frame_noise_std,
            "sampling": phase.sampling.model_dump(mode="json"),
        }
        for network, phase in phases
    ]
    knows_classes = any(getattr(phase.denoiser, "num_classes", None) is not None for _, phase in phases)
    needs = ["prompt", "pseudo_class"] if knows_classes else ["prompt"]
    takes = ["first_frame"] if all(phase.first_frame for _, phase in phases) else []
    told = {"kind": "flow", "needs": needs, "takes": takes, "clocks": CLOCKS}
    return {**told, "phases": walked, "latents": data.facts()}


def samples(
    data: Latents, phases: Sequence[Named], conditions: Mapping[str, Tensor], device: torch.device, micro_batch: int
) -> Tensor:
    """Latents [N, C, T, H, W] of N prompts, so many at once as training has; noise seeds 0, 1, 2 …"""
    parts, walked = [], [phase for _, phase in phases]
    shared, empty = any(phase.still for phase in walked), data.empty_prompt.to(device)
    for start in range(0, len(conditions["prompt_embeds"]), micro_batch):
        told = {name: value[start : start + micro_batch].to(device) for name, value in conditions.items()}
        seeds = range(start, start + len(told["prompt_embeds"]))
        noise = seeded_noise(seeds, data.shape, shared).to(device)
        parts.append(walk(walked, noise, told, empty, None, frame_noise(seeds, data.shape)).cpu())
    return torch.cat(parts)


def preview(
    data: Latents, phases: Sequence[Named], device: torch.device, micro_batch: int, count: int = PREVIEWS
) -> tuple[Tensor, Tensor, list[str]]:
    """True and sampled latents [N, C, T, H, W] of the first held-out prompts, and the prompts."""
    batch = data.held_out(count)
    conditions = {name: batch[name] for name in CONDITIONS if name in batch}
    return batch["latents"], samples(data, phases, conditions, device, micro_batch), batch["prompt"]


def finish(
    run: Run,
    data: Latents,
    denoiser: VideoDenoiser,
    phases: Sequence[Named],
    fixed: FixedLevels,
    error: Error,
    extra: Callable[[], Mapping[str, float]] = dict,
    others: Mapping[str, VideoDenoiser] | None = None,
    rivals: Mapping[str, str] | None = None,
) -> None:
    """Held-out numbers of raw and averaged weights, pictures, checkpoint. ``extra`` gives further held-out numbers, of
    which ``rivals`` (name: whose it is) are what something without a network explains: the network has to beat it."""
    if run.is_main:
        with run.computing():
            results: dict[str, Any] = {"validation/loss_raw_weights": float(error(denoiser, fixed)[0].mean())}
        with run.ema_weights("denoiser"), run.computing():
            denoiser.eval()
            measured = error(denoiser, fixed)
            numbers = fixed.numbers(*measured)
            monitors = ("velocity_cos_sim", "pred_velocity_mag", "target_velocity_mag")
            results |= {name if name in monitors else f"validation/{name}": value for name, value in numbers.items()}
            results |= dict(extra())
            explained = results["validation/explained"]
            bars = [(0.0, "predicting no velocity")]
            bars += [(results[name], whose) for name, whose in (rivals or {}).items() if name in results]
            count = fixed.num_clips
            results["baselines"] = [
                baseline("validation/explained", explained, ">", bar, why, count) for bar, why in bars
            ]
            for one in results["baselines"]:
                said = "" if one["verdict"] == "pass" else "; WARNING: the baseline wins"
                say(f"validation/explained {explained:.3f}, {one['reason']} {one['threshold']:.3f}{said}")
            validation_clips.draw_steps(run.shown, run.plots / "validation.png")
            shown = preview(data, phases, run.device, run.training.micro_batch)
            pictures.draw_samples(*shown, run.name, run.plots / "samples.png")
            pictures.draw_levels(fixed, measured[0], measured[2], run.name, run.plots / "loss_by_sigma.png")

        def describe(folder: Path) -> None:
            write_json(folder / "generator.json", description(phases, data))

        run.finish({"denoiser": denoiser, **(others or {})}, results, describe)
