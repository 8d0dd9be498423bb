"""The picture of the stage autoencoder_adversarial: what the game changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.drawing import drawn, new_figure

BEFORE, AFTER = "#777777", "#0072B2"
NAMES = {
    "perceptual": "distance in features",
    "feature_distance": "Fréchet distance in features",
    "flicker": "flicker (grey levels)",
    "ssim": "SSIM (skimage's)",
}


@drawn
def draw(before: Mapping[str, Any], after: Mapping[str, Any], path: Path) -> None:
    """Each number before and after, and PSNR of every frame of a clip where clips are equally long."""
    named = [name for name in NAMES if name in before and name in after]
    per_frame = "psnr_per_frame" in before and "psnr_per_frame" in after
    figure = new_figure(figsize=(2.6 * len(named) + 4.5 * per_frame, 3.4), layout="constrained")
    grid = figure.subplots(
        1, len(named) + per_frame, width_ratios=[1.0] * len(named) + [1.8] * per_frame, squeeze=False
    )
    for axes, name in zip(grid[0], named, strict=False):
        axes.bar(["before", "after"], [before[name], after[name]], color=[BEFORE, AFTER])
        axes.set_title(NAMES[name], fontsize=9.5)
        for place, value in enumerate((before[name], after[name])):
            axes.annotate(f"{value:.3g}", (place, value), ha="center", va="bottom", fontsize=9)
        axes.margins(y=0.15)
    if per_frame:
        axes = grid[0][-1]
        axes.plot(before["psnr_per_frame"], color=BEFORE, marker=".", label=f"before: {before['psnr']:.2f} dB")
        axes.plot(after["psnr_per_frame"], color=AFTER, marker=".", label=f"after: {after['psnr']:.2f} dB")
        axes.set(xlabel="frame", ylabel="PSNR (dB)")
        axes.set_title("error of every frame", fontsize=9.5)
        axes.legend(fontsize=9, frameon=False)
    for axes in grid[0]:
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, pil_kwargs={"optimize": True})
