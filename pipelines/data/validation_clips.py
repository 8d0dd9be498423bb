"""Clips of one validation during training: an mp4 with all of them tiled, a contact sheet; and a picture of all steps.

Files are named by their step (``step-000230.mp4``, ``step-000230.png``), so a run that resumes writes the same again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pipelines import stage
from pipelines.data.video import read_clip, write_mp4
from pipelines.drawing import drawn, one_line

SHEET_FRAMES = 5
"""Frames of each clip on a contact sheet."""
MOST_STEPS = 6
"""Validations on the picture of all steps."""
LINE, ENLARGED = 14, 128
"""Pixels of a label's line; pixels that a clip is enlarged to at least (whole multiples, without smoothing)."""


def tiled(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Clips uint8 [T, H, W, 3] of one shape as one clip, in rows of about as many as there are rows; even sizes."""
    columns = math.ceil(math.sqrt(len(clips)))
    missing = -len(clips) % columns
    filled = [*clips, *[np.full_like(clips[0], 255)] * missing]
    rows = [np.concatenate(filled[at : at + columns], axis=2) for at in range(0, len(filled), columns)]
    whole = np.concatenate(rows, axis=1)
    return np.pad(whole, ((0, 0), (0, whole.shape[1] % 2), (0, whole.shape[2] % 2), (0, 0)), constant_values=255)


def _enlarged(picture: np.ndarray, side: int) -> Image.Image:
    scale = max(1, ENLARGED // side)
    return Image.fromarray(picture.repeat(scale, axis=0).repeat(scale, axis=1))


def _stacked(strips: Sequence[Image.Image], labels: Sequence[str]) -> Image.Image:
    """Strips below one another, each under its label."""
    size = max(strip.width for strip in strips), sum(strip.height + LINE for strip in strips)
    page, top = Image.new("RGB", size, "white"), 0
    for strip, label in zip(strips, labels, strict=True):
        plain = one_line(label, 120).encode("ascii", "replace").decode()
        ImageDraw.Draw(page).text((2, top + 1), plain, fill="#1d2026")
        page.paste(strip, (0, top + LINE))
        top += strip.height + LINE
    return page


def write(folder: Path, step: int, clips: Sequence[np.ndarray], labels: Sequence[str], frame_rate: float) -> Path:
    """Write the clips (uint8 [T, H, W, 3], one shape) of a step; returns the mp4, the sheet stands beside it.

    Where they cannot be written, that is one warning, and the training goes on.
    """
    path = folder / f"step-{step:06d}.mp4"
    _write(path, step, clips, labels, frame_rate)
    return path


@drawn
def _write(path: Path, step: int, clips: Sequence[np.ndarray], labels: Sequence[str], frame_rate: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, tiled(clips), frame_rate, metadata={"title": f"step {step}", "comment": "; ".join(labels)})
    chosen = np.linspace(0, len(clips[0]) - 1, min(SHEET_FRAMES, len(clips[0]))).round().astype(int)
    strips = [_enlarged(np.concatenate(list(clip[chosen]), axis=1), clip.shape[1]) for clip in clips]
    _stacked(strips, labels).save(path.with_suffix(".png"))  # to press it harder takes ten times as long for 4 %


@drawn
def draw_steps(folder: Path, path: Path) -> None:
    """The middle frame of the tiled clips of every validation (or of some, evenly spread), side by side."""
    files = sorted(folder.glob("step-*.mp4"))
    if not files:
        return
    places = np.linspace(0, len(files) - 1, min(MOST_STEPS, len(files))).round().astype(int)
    pages = []
    for file in (files[place] for place in places):
        frames = read_clip(file)
        picture = _enlarged(frames[len(frames) // 2], frames.shape[1] // 2)
        pages.append(_stacked([picture], [f"step {int(file.stem.removeprefix('step-'))}"]))
    whole = Image.new("RGB", (sum(page.width + 6 for page in pages) - 6, pages[0].height), "white")
    left = 0
    for page in pages:
        whole.paste(page, (left, 0))
        left += page.width + 6
    path.parent.mkdir(parents=True, exist_ok=True)
    with stage.bookkeeping(f"the picture {path}"):
        whole.save(path)
