"""Pictures of the world model: numbers of a rollout by quarter, and the same start told different actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from pipelines.drawing import drawn, new_figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"
SHOWN = 9
"""Frames of a rollout side by side."""


def pixels(video: Tensor) -> np.ndarray:
    """Video [B, 3, T, H, W] in [-1, 1] as uint8 [B, T, H, W, 3]."""
    return ((video.float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy()


def strip(frames: np.ndarray, count: int = SHOWN) -> np.ndarray:
    """Evenly spaced frames [T, H, W, 3] side by side, with white gaps."""
    places = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    padded = np.pad(frames[places], ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)


@drawn
def draw_quarters(numbers: Mapping[str, float], rollout: np.ndarray, stage: str, path: Path) -> None:
    """Rollouts [N, T, H, W, 3], and by quarter what they follow and keep, beside shuffled actions and chance."""
    figure = new_figure(figsize=(11, 6.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.25, 1))  # pyright: ignore[reportGeneralTypeIssues]
    axes = top.subplots()
    axes.imshow(np.concatenate([strip(clip) for clip in rollout]))
    axes.set_axis_off()
    axes.set_title(f"{stage}: rollouts of {rollout.shape[1]} frames, {SHOWN} of them", loc="left", fontsize=12)
    left, right = bottom.subplots(1, 2)
    _lines(left, numbers, "rollout/action_accuracy", "frames whose keys are read as given")
    _lines(right, numbers, "rollout/identity_agreement", "frames whose identity is read as at the start")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def _lines(axes: object, numbers: Mapping[str, float], name: str, title: str) -> None:
    for extra, colour, mark, label in (("", BLUE, "o-", "rollout"), ("_shuffled", ORANGE, "s--", "others' actions")):
        values = [numbers.get(f"{name}{extra}/q{quarter}") for quarter in range(1, 5)]
        if all(value is not None for value in values):
            axes.plot(range(1, 5), values, mark, color=colour, label=label)  # type: ignore[attr-defined]
    if f"{name}_chance" in numbers:
        axes.axhline(numbers[f"{name}_chance"], ls=":", color=GREY, label="chance")  # type: ignore[attr-defined]
    real = name.replace("rollout/", "reader/")
    if real in numbers:
        axes.axhline(numbers[real], ls="-.", color=GREY, label="real clips")  # type: ignore[attr-defined]
    axes.set(ylim=(0, 1), xticks=range(1, 5), xlabel="quarter of the rollout")  # type: ignore[attr-defined]
    axes.set_title(title, fontsize=9, loc="left")  # type: ignore[attr-defined]
    axes.grid(alpha=0.3)  # type: ignore[attr-defined]
    if axes.get_legend_handles_labels()[0]:  # type: ignore[attr-defined]
        axes.legend(frameon=False, fontsize=8)  # type: ignore[attr-defined]


@drawn
def draw_strips(ways: np.ndarray, named: Sequence[str], stage: str, path: Path) -> None:
    """The same start and noise told nothing or one key: ways [W, N, T, H, W, 3], a row each."""
    count = ways.shape[1]
    figure = new_figure(figsize=(3 * count + 1, 1.0 + 0.75 * len(ways)), layout="constrained")
    grid = figure.subplots(len(ways), count, squeeze=False)
    for row, name in enumerate(named):
        for column in range(count):
            grid[row, column].imshow(strip(ways[row, column], 4))
            grid[row, column].set(xticks=[], yticks=[])
        grid[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(f"{stage}: the same start and noise, other actions", x=0.01, ha="left", fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
