"""Pictures of the stages autoencoder and latent_shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pipelines.data import validation_clips
from pipelines.data.shards import Shards
from pipelines.drawing import drawn, new_figure, one_line
from pipelines.latents.clips import Clips, FrameGroups, as_frames
from pipelines.latents.quality import Quality
from pipelines.models.autoencoder import Autoencoder

VALIDATED = 2
"""Held-out clips that every validation of the training shows."""
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
"""From Okabe and Ito's palette: told apart by colour-blind readers too."""


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, pil_kwargs={"optimize": True})


def _spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` numbers spread over range(count), first and last among them."""
    return sorted(set(np.linspace(0, count - 1, wanted).round().astype(int).tolist()))


def _strip(frames: np.ndarray, gap: int = 2) -> np.ndarray:
    """Frames [T, H, W, 3] side by side with white gaps."""
    padded = np.pad(frames, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)[:, :-gap]


@drawn
def draw_reconstructions(
    autoencoder: Autoencoder,
    clips: Clips,
    quality: Quality,
    baselines: dict[str, float],
    device: torch.device,
    path: Path,
) -> None:
    """Held-out clips from the best to the worst: some frames as decoded, and below them their reconstruction."""
    measured = [row for row in clips.rows("validation") if clips.key(row) in quality.per_clip]
    order = sorted(measured, key=lambda row: -quality.per_clip[clips.key(row)])
    chosen = [order[index] for index in _spread(len(order), 4)]
    figure = new_figure(figsize=(10.5, 0.9 + 2.75 * -(-len(chosen) // 2)), layout="constrained")
    grid = figure.subplots(-(-len(chosen) // 2), 2, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, row in zip(grid, chosen, strict=False):
        [(_, video)] = list(clips.videos([row], 1))
        shown = _spread(video.shape[2], 4)
        original = clips.frames(row)[shown]
        decoded = as_frames(autoencoder.decode(autoencoder.encode(video.to(device))))[0][shown]
        axes.set_axis_on()
        axes.imshow(np.concatenate([_strip(original), _strip(decoded)]), interpolation="nearest", aspect="equal")
        height, width = original.shape[1:3]
        axes.set_yticks([height / 2, 1.5 * height], ["original", "recon-\nstruction"], fontsize=9)
        axes.set_xticks(
            [(width + 2) * i + width / 2 for i in range(len(shown))], [f"frame {f}" for f in shown], fontsize=8
        )
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        caption = one_line(str(clips.catalog["caption"].iloc[row]), 54)
        axes.set_title(f"{quality.per_clip[clips.key(row)]:.1f} dB · {caption}", fontsize=8.5, loc="left")
    title = f"Held-out clips over their reconstructions, best to worst: {quality.psnr:.1f} dB"
    compared = f"patch PCA {baselines['psnr_patch_pca']:.1f} dB, mean colour {baselines['psnr_mean_colour']:.1f} dB"
    figure.suptitle(f"{title} at {quality.compression:.0f}x ({compared})", fontsize=12)
    _save(figure, path)


@drawn
def draw_augmentation(groups: FrameGroups, count: int, path: Path) -> None:
    """Training samples as they are in their clips, and beside them as the first three steps would change them."""
    titles = ["as it is in the clip", *(f"changed as at step {step}" for step in range(3))]
    figure = new_figure(figsize=(12, 0.6 + 0.85 * count), layout="constrained")
    grid = figure.subplots(count, len(titles), squeeze=False)
    for place, line in enumerate(grid):
        for axes, video in zip(line, groups.variants(place, 3), strict=True):
            axes.imshow(_strip(as_frames(video[None])[0]), interpolation="nearest")
            axes.set_axis_off()
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    _save(figure, path)


def over_reconstructions(
    autoencoder: Autoencoder, clips: Clips, rows: Sequence[int], device: torch.device
) -> list[np.ndarray]:
    """The first :data:`VALIDATED` clips, each over its reconstruction: uint8 [T, 2 H, W, 3]."""
    shown = []
    for row in rows[:VALIDATED]:
        [(_, video)] = list(clips.videos([row], 1))
        decoded = as_frames(autoencoder.decode(autoencoder.encode(video.to(device))))[0]
        shown.append(np.concatenate([clips.frames(row)[: len(decoded)], decoded], axis=1))
    return shown


def write_validation(shown: Sequence[np.ndarray], clips: Clips, rows: Sequence[int], folder: Path, step: int) -> Path:
    """What :func:`over_reconstructions` gave for these rows, as an mp4 and a contact sheet of this step."""
    chosen = list(rows[:VALIDATED])
    captions = clips.catalog["caption"].iloc[chosen].astype(str).tolist()
    return validation_clips.write(folder, step, shown, captions, float(clips.catalog["frame_rate"].iloc[chosen[0]]))


@drawn
def draw_quality(quality: Quality, baselines: dict[str, float], std: Tensor, least: float, path: Path) -> None:
    """PSNR of every held-out clip beside the baselines, and the spread of every latent channel."""
    figure = new_figure(figsize=(12, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    values = list(quality.per_clip.values())
    left.hist(values, bins=min(24, max(4, len(values) // 4)), color=BLUE, alpha=0.85, label="held-out clips")
    lines = [
        ("all clips", quality.psnr, BLUE, "-"),
        ("patch PCA, all clips", baselines["psnr_patch_pca"], ORANGE, "--"),
    ]
    for label, value, colour, style in lines:
        left.axvline(value, color=colour, linestyle=style, linewidth=2, label=f"{label}: {value:.1f} dB")
    left.set(xlabel="PSNR (dB)", ylabel="clips", title="Reconstruction of held-out clips")
    left.legend(fontsize=9, framealpha=0.85, edgecolor="none")  # the lines may pass behind it
    right.bar(range(len(std)), std.tolist(), color=GREEN)
    right.axhline(least, color=GREY, linestyle=":", label=f"gate: at least {least:g}")
    right.set(
        xlabel="latent channel", ylabel="standard deviation", title="Latents before normalisation (0 = collapsed)"
    )
    right.legend(fontsize=9, frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _false_colour(latents: np.ndarray) -> np.ndarray:
    """Latents [C, T, H, W] as colours [T, H, W, 3] in [0, 1]: their three principal components, each over its range."""
    flat = latents.reshape(len(latents), -1).T.astype(np.float64)
    flat = flat - flat.mean(axis=0)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    shown = flat @ vectors[:, ::-1][:, :3]
    low, high = np.percentile(shown, [2, 98], axis=0)
    return np.clip((shown - low) / np.maximum(high - low, 1e-9), 0, 1).reshape(*latents.shape[1:], -1)


@drawn
def draw_latents(autoencoder: Autoencoder, clips: Clips, folder: Path, device: torch.device, path: Path) -> None:
    """A few held-out samples as they stand in the shards: original frames, latents in false colour, latents decoded."""
    shards = Shards(folder)
    rows = shards.rows("validation")[:2]
    numbers = {key: row for row, key in enumerate(clips.catalog["key"])}
    figure = new_figure(figsize=(10, 0.8 + 5.2 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 1, squeeze=False).ravel()
    for axes, row in zip(grid, rows, strict=True):
        sample = shards.read(int(row), ("latents", "prompt"))
        latents = np.array(sample["latents"], dtype=np.float32)
        decoded = as_frames(autoencoder.decode(torch.from_numpy(latents)[None].to(device)))[0]
        shown = [min(index * autoencoder.temporal_stride, len(decoded) - 1) for index in range(latents.shape[1])]
        colours = (_false_colour(latents) * 255).astype(np.uint8)
        scale = decoded.shape[1] // colours.shape[1]
        colours = colours.repeat(scale, axis=1).repeat(scale, axis=2)
        original = clips.frames(numbers[shards.index["key"].iloc[row]])[shown]
        axes.imshow(
            np.concatenate([_strip(original), _strip(colours), _strip(decoded[shown])]), interpolation="nearest"
        )
        height, width = original.shape[1:3]
        axes.set_yticks([height * (n + 0.5) for n in range(3)], ["original", "latent\nframes", "decoded"], fontsize=9)
        ticks = [(width + 2) * n + width / 2 for n in range(len(shown))]
        axes.set_xticks(ticks, [f"{n} (frame {f})" for n, f in enumerate(shown)], fontsize=9)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(one_line(sample["prompt"], 120), fontsize=10, loc="left")
    figure.suptitle("Held-out samples in the shards (latents: three principal components as colour)", fontsize=12)
    _save(figure, path)
