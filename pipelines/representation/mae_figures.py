"""Pictures of the masked autoencoder: what it fills in, what can be read from it, its spectrum."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from pipelines import stage
from pipelines.drawing import drawn, logarithmic, new_figure, palette

BLUE, ORANGE, GREEN, PINK, AMBER, SKY, GREY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8A8A8A",
)
"""Okabe and Ito's palette, told apart by colour-blind readers too."""
PIXELS = 8
"""Side of a latent element on a clip of latents."""


def save(figure: Figure, path: Path, dpi: int = 90) -> None:
    """Write a PNG of at most 256 colours: a third of the bytes, and no difference that a reader sees."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    with stage.bookkeeping(f"the picture {path}"):
        palette(picture).save(path, optimize=True)


def false_colour(*clips: np.ndarray) -> list[np.ndarray]:
    """Latents [C, T, H, W] as colours [T, H, W, 3]: three principal components of the first, on one scale for all."""
    flat = [clip.reshape(len(clip), -1).T.astype(np.float64) for clip in clips]
    mean = flat[0].mean(0)
    _, vectors = np.linalg.eigh((flat[0] - mean).T @ (flat[0] - mean))
    shown = [(values - mean) @ vectors[:, ::-1][:, :3] for values in flat]
    low, high = np.percentile(shown[0], [2, 98], axis=0)
    scaled = [np.clip((values - low) / np.maximum(high - low, 1e-9), 0, 1) for values in shown]
    return [values.reshape(*clip.shape[1:], -1) for values, clip in zip(scaled, clips, strict=True)]


def strip(frames: np.ndarray, gap: int = 1) -> np.ndarray:
    """Frames [T, H, W, 3] side by side with white between."""
    white = np.ones((frames.shape[1], gap, 3))
    return np.concatenate([part for frame in frames for part in (frame, white)][:-1], axis=1)


def filled_in(real: Tensor, guess: Tensor, mask: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one clip [C, T, H, W] in false colour [T, H, W, 3]: its latents, what is visible (grey is hidden), filled in.

    Args:
        mask: bool [1, T, H, W], true where hidden.
    """
    colour, filled = false_colour(real.numpy(), np.where(mask.numpy(), guess.numpy(), real.numpy()))
    return colour, np.where(mask[0].numpy()[..., None], 0.72, colour), filled


def masked_clip(real: Tensor, guess: Tensor, mask: Tensor) -> np.ndarray:
    """The three of :func:`filled_in` below one another, as a clip uint8 [T, 3 H, W, 3], :data:`PIXELS` per latent."""
    whole = np.concatenate(filled_in(real, guess, mask), axis=1)
    return (whole * 255).round().astype(np.uint8).repeat(PIXELS, axis=1).repeat(PIXELS, axis=2)


@drawn
def draw_reconstructions(
    latents: Tensor,
    predicted: Tensor,
    hidden: Tensor,
    prompts: Sequence[str],
    results: Mapping[str, Any],
    path: Path,
) -> None:
    """A block per clip in false colour: latents, what the network sees (grey is hidden), its filling-in of the hidden;
    frames from left to right."""
    figure = new_figure(figsize=(13, 3.6), layout="constrained")
    grid = figure.subplots(1, len(latents), squeeze=False).ravel()
    for axes, real, guess, mask, prompt in zip(grid, latents, predicted, hidden, prompts, strict=True):
        colour, seen, filled = filled_in(real, guess, mask)
        white = np.ones((1, strip(colour).shape[1], 3))
        axes.imshow(np.concatenate([strip(colour), white, strip(seen), white, strip(filled)]), interpolation="nearest")
        height, width = colour.shape[1:3]
        axes.set_yticks([])
        axes.set_xticks([(width + 1) * t + width / 2 - 0.5 for t in range(len(colour))])
        axes.set_xticklabels([str(t) for t in range(len(colour))], fontsize=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(textwrap.fill(textwrap.shorten(prompt, 110, placeholder="…"), 46), fontsize=9, loc="left")
    height = latents.shape[3]
    grid[0].set_yticks([(height + 1) * row + height / 2 - 0.5 for row in range(3)], ["latents", "visible", "filled in"])
    grid[0].set_xlabel("latent frame")
    figure.get_layout_engine().set(wspace=0.04)  # type: ignore[union-attr]
    text = f"error on hidden latents {results['masked_error']:.2f}, copying the mean {results['copy_mean_error']:.2f}"
    figure.suptitle(f"Masked latents of held-out clips, filled in ({text})", fontsize=12)
    save(figure, path)


@drawn
def draw_probes(probes: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """Held-out accuracy of linear probes per factor: trained features, random encoder, raw latents, chance."""
    factors = list(probes["features"])
    figure = new_figure(figsize=(12, 4.2), layout="constrained")
    axes = figure.subplots()
    series = [("features", BLUE, "MAE features"), ("random_encoder", AMBER, "same encoder, random weights")]
    series.append(("raw_latents", GREY, "raw latents"))
    for offset, (space, colour, label) in enumerate(series):
        heights = [probes[space][factor]["accuracy"] for factor in factors]
        errors = [probes[space][factor]["accuracy_std"] for factor in factors]
        places = np.arange(len(factors)) + 0.26 * (offset - 1)
        axes.bar(places, heights, 0.25, yerr=errors, color=colour, label=label, error_kw={"linewidth": 0.8})
    for number, factor in enumerate(factors):
        chance = probes["features"][factor]["accuracy_chance"]
        label = "chance" if number == 0 else "_"
        axes.hlines(chance, number - 0.42, number + 0.42, color="black", linestyle="--", linewidth=1.2, label=label)
    axes.set_xticks(range(len(factors)), factors)
    axes.set(ylim=(0, 1.05), ylabel="held-out accuracy")
    axes.set_title("What a linear probe reads from the features", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    save(figure, path)


@drawn
def draw_spectrum(shares: np.ndarray, raw: np.ndarray, feature: str, numbers: Mapping[str, float], path: Path) -> None:
    """Variance per principal direction and its running sum, beside raw latents."""
    figure = new_figure(figsize=(12, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for values, colour, label in ((shares, BLUE, feature), (raw, GREY, "raw latents")):
        kept = values[values > 1e-9]
        left.plot(np.arange(1, len(kept) + 1), kept, color=colour, linewidth=1.8, label=label)
        right.plot(np.arange(1, len(values) + 1), values.cumsum(), color=colour, linewidth=1.8, label=label)
    left.set(xlabel="principal direction", ylabel="share of variance")
    right.set(ylim=(0, 1.03), xlabel="principal directions", ylabel="share of variance, summed")
    logarithmic(left, "xy")
    logarithmic(right, "x")
    text = (
        f"RankMe {numbers['rankme']:.1f} of at most {numbers['rankme_most']:.0f} (noise: {numbers['rankme_noise']:.0f})"
    )
    left.set_title(f"Spectrum: {text}", loc="left", fontsize=11)
    right.set_title(f"Participation ratio {numbers['participation']:.1f}", loc="left", fontsize=11)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
