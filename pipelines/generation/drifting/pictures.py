"""Pictures of a refiner: true, interpolated and refined clips frame by frame, and errors by number of keyframes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipelines.drawing import drawn, new_figure, one_line

BLUE, GREY, GIVEN = "#0072B2", "#777777", "#D55E00"
ROWS = ("true", "interpolation", "refined")


def _row(frames: np.ndarray, given: Sequence[bool]) -> np.ndarray:
    """Frames uint8 [N, H, W, 3] side by side, those that are given in a frame of colour."""
    colour = np.array([int(GIVEN[at : at + 2], 16) for at in (1, 3, 5)], dtype=np.uint8)
    framed = []
    for frame, is_given in zip(frames, given, strict=True):
        edge = colour if is_given else np.full(3, 255, np.uint8)
        padded = np.empty((frame.shape[0] + 4, frame.shape[1] + 4, 3), np.uint8)
        padded[:] = edge
        padded[2:-2, 2:-2] = frame
        framed.append(padded)
    return np.concatenate(framed, axis=1)


@drawn
def draw_clips(
    clips: Mapping[str, np.ndarray], given: np.ndarray, prompts: Sequence[str], stage: str, path: Path
) -> None:
    """Per prompt a row of each of ``clips`` (uint8 [B, N, H, W, 3]); ``given`` bool [B, N] are framed in orange."""
    names, count = list(clips), len(prompts)
    figure = new_figure(figsize=(11, 0.7 + 1.05 * len(names) * count), layout="constrained")
    axes = figure.subplots(count * len(names), 1, squeeze=False)[:, 0]
    for number, prompt in enumerate(prompts):
        for place, name in enumerate(names):
            one = axes[number * len(names) + place]
            one.imshow(_row(clips[name][number], given[number]), interpolation="nearest")
            one.set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
            one.set(xticks=[], yticks=[])
            for spine in one.spines.values():
                spine.set_visible(False)
        axes[number * len(names)].set_title(one_line(prompt, 110), fontsize=9, loc="left")
    figure.suptitle(f"{stage}: held-out clips; framed in orange: given", x=0.01, ha="left", fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


@drawn
def draw_pictures(pictures: Mapping[str, np.ndarray], stage: str, path: Path) -> None:
    """A row of each of ``pictures`` (uint8 [B, H, W, 3]), those of one column of one held-out picture."""
    count = len(next(iter(pictures.values())))
    figure = new_figure(figsize=(1.2 + 1.1 * count, 0.6 + 1.1 * len(pictures)), layout="constrained")
    axes = figure.subplots(len(pictures), 1, squeeze=False)[:, 0]
    for one, (name, row) in zip(axes, pictures.items(), strict=True):
        one.imshow(_row(row, [False] * count), interpolation="nearest")
        one.set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
        one.set(xticks=[], yticks=[])
        for spine in one.spines.values():
            spine.set_visible(False)
    figure.suptitle(f"{stage}: held-out pictures", x=0.01, ha="left", fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


@drawn
def draw_errors(numbers: Mapping[str, float], counts: Sequence[int], kind: str, stage: str, path: Path) -> None:
    """Error of what is missing by number of ``kind``: interpolation, refiner, and the gain with its interval."""
    figure = new_figure(figsize=(9, 3.6), layout="constrained")
    errors, gains = figure.subplots(1, 2)
    places = np.arange(len(counts))
    theirs = [numbers[f"interpolation_error_of_{count}_{kind}"] for count in counts]
    ours = [numbers[f"missing_error_of_{count}_{kind}"] for count in counts]
    errors.bar(places - 0.2, theirs, 0.38, color=GREY, label="interpolation")
    errors.bar(places + 0.2, ours, 0.38, color=BLUE, label="refined")
    errors.set(ylabel="mean squared error of what is missing", ylim=(0, None))
    errors.legend(frameon=False, fontsize=9)
    names = tuple(f"gain_of_{{}}_{kind}{end}" for end in ("", "_low", "_high"))
    middle, low, high = (np.array([numbers[name.format(count)] for count in counts]) for name in names)
    gains.errorbar(places, middle, [middle - low, high - middle], fmt="o", color=BLUE, capsize=4)
    gains.axhline(0.0, color=GREY, linewidth=1)
    gains.set(ylabel="share of it that the refiner takes away", xlim=(-0.5, len(counts) - 0.5))
    for axes in (errors, gains):
        axes.set_xticks(places, [f"{count} given" for count in counts])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3, axis="y")
        axes.set_axisbelow(True)
    figure.suptitle(f"{stage}: held-out clips (right: with 95 % intervals over clips)", x=0.01, ha="left", fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
