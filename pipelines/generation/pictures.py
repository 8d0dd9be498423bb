"""Pictures of the generators: latents in false colour, and the held-out loss by sigma."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipelines.drawing import drawn, new_figure, one_line
from pipelines.generation.validation import FixedLevels

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"


def false_colour(latents: Tensor, reference: Tensor) -> np.ndarray:
    """Latents [N, C, T, H, W] as RGB in [0, 1], [N, T, H, W, 3]: the three main directions of ``reference``'s channels.

    Its 2nd and 98th percentiles become 0 and 1, so that pictures of different latents can be compared.
    """
    vectors = reference.movedim(1, -1).flatten(0, 3).double()
    mean = vectors.mean(0)
    _, directions = torch.linalg.eigh(torch.cov((vectors - mean).T))
    main = directions[:, -3:].flip(1)
    main = main * torch.sign(main.sum(0, keepdim=True) + 1e-12)
    known = (vectors - mean) @ main
    low, high = known.quantile(0.02, 0), known.quantile(0.98, 0)
    shown = (latents.movedim(1, -1).double() - mean) @ main
    return ((shown - low) / (high - low)).clamp(0, 1).numpy()


def _row(frames: np.ndarray, gap: int = 1) -> np.ndarray:
    """Frames [T, H, W, 3] side by side with white gaps."""
    padded = np.pad(frames, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=1.0)
    return np.concatenate(list(padded), axis=1)[:, :-gap]


@drawn
def draw_samples(true: Tensor, sampled: Tensor, prompts: Sequence[str], stage: str, path: Path) -> None:
    """Per prompt, latent frames of the held-out clip and of the sample, in the same false colours."""
    colours = [_row(clip) for clip in false_colour(true, true)]
    generated = [_row(clip) for clip in false_colour(sampled, true)]
    figure = new_figure(figsize=(12, 0.62 + 1.12 * len(prompts)), layout="constrained")
    axes = figure.subplots(len(prompts), 3, width_ratios=(1.1, 2, 2), squeeze=False)
    figure.get_layout_engine().set(wspace=0.05)  # type: ignore[union-attr]
    for row, prompt in enumerate(prompts):
        axes[row, 0].text(0, 0.5, textwrap.fill(one_line(prompt, 160), 34), fontsize=9, va="center")
        axes[row, 1].imshow(colours[row], interpolation="nearest")
        axes[row, 2].imshow(generated[row], interpolation="nearest")
        for column in axes[row]:
            column.set_axis_off()
    for column, title in enumerate(("prompt", "held-out clip, latent frames", "sample of the same prompt")):
        axes[0, column].set_title(title, fontsize=10, loc="left")
    figure.suptitle(
        f"{stage}: latents in false colour (evaluation shows decoded clips)", x=0.01, ha="left", fontsize=13
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


@drawn
def draw_levels(fixed: FixedLevels, error: Tensor, target: Tensor, stage: str, path: Path) -> None:
    """Held-out loss at each fixed sigma beside the loss of predicting 0."""
    loss = fixed.by_level(error).tolist()
    power = fixed.by_level(target.square().flatten(1).mean(1)).tolist()
    figure = new_figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(fixed.values, power, "--", color=GREY, marker="s", label="predicting 0")
    axes.plot(fixed.values, loss, "-", color=BLUE, marker="o", label="this denoiser")
    for value, number in zip(fixed.values, loss, strict=True):
        axes.annotate(
            f"{number:.2f}", (value, number), textcoords="offset points", xytext=(0, 7), ha="center", fontsize=9
        )
    axes.set(xlabel="sigma (0 clean, 1 noise)", ylabel="mean squared velocity error", ylim=(0, None))
    axes.set_title(f"{stage}: held-out loss by sigma", loc="left", fontsize=12)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
