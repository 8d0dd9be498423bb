"""Many clips on one page: a row of frames for each, with its prompt."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.drawing import new_figure, one_line

FRAMES = 6
"""Frames shown of each clip, evenly spread from its first to its last."""
ROWS = 24
"""Clips on one page."""


def places(num_frames: int, count: int = FRAMES) -> list[int]:
    """Which frames of a clip are shown: at most ``count``, evenly spread."""
    return np.linspace(0, num_frames - 1, min(count, num_frames)).round().astype(int).tolist()


def strip(chosen: np.ndarray) -> np.ndarray:
    """Some frames uint8 [T, H, W, 3] side by side with white gaps."""
    gap = max(1, chosen.shape[2] // 32)
    padded = np.pad(chosen, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)[:, :-gap]


def draw(strips: Sequence[np.ndarray], labels: Sequence[str], path: Path) -> list[Path]:
    """Write pages of :data:`ROWS` strips each beside their labels; returns the files (``path``, ``…-2``, …)."""
    pages = []
    for number, start in enumerate(range(0, len(strips), ROWS), start=1):
        page = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        _draw_page(strips[start : start + ROWS], labels[start : start + ROWS], page)
        pages.append(page)
    return pages


def _draw_page(strips: Sequence[np.ndarray], labels: Sequence[str], path: Path) -> None:
    widest = max(strip.shape[1] / strip.shape[0] for strip in strips)
    row = min(1.4, 9.0 / widest)
    figure = new_figure(figsize=(12, 0.2 + (row + 0.12) * len(strips)), layout="constrained")
    axes = figure.subplots(len(strips), 2, width_ratios=(1, 3), squeeze=False)
    for (left, right), strip_, label in zip(axes, strips, labels, strict=True):
        left.text(
            0,
            0.5,
            "\n".join(textwrap.wrap(one_line(label, 400), 36, max_lines=5, placeholder=" …")),
            fontsize=9,
            va="center",
        )
        right.imshow(strip_, interpolation="nearest" if strip_.shape[0] < 100 else "antialiased")
        left.set_axis_off()
        right.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
