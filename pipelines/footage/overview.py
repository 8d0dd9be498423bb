"""What the stage made, at a glance: the numbers, a contact sheet, filmstrips, and counts of factors or sources."""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pipelines.data.catalog import FACTOR_PREFIX, factor_names
from pipelines.data.video import read_clip
from pipelines.footage.factors import MOTION

SHEET = 30
STRIPS = 6
BLUE, ORANGE, INK, QUIET = "#0072B2", "#E69F00", "#222222", "#777777"
DPI = 120
MAX_BYTES = 150_000


def numbers(
    catalog: pd.DataFrame, rejected: Sequence[Mapping[str, str]], num_files: int, fidelity: Sequence[float]
) -> dict[str, Any]:
    """The metrics: counts, seconds of footage, refused files by reason, and the PSNR of the mp4 files in dB."""
    seconds = float((catalog["end_seconds"] - catalog["start_seconds"]).sum())
    return {
        "num_clips": len(catalog),
        "num_held_out": int((catalog["split"] == "held_out").sum()),
        "num_sources": num_files - len(rejected),
        "footage_seconds": seconds,
        "num_rejected": len(rejected),
        "rejected_share": len(rejected) / num_files,
        "rejected": dict(sorted(Counter(row["reason"] for row in rejected).items())),
        "mp4_psnr": {"mean": float(np.mean(fidelity)), "lowest": float(np.min(fidelity))},
    }


def summary(content: Mapping[str, Any]) -> str:
    """The numbers in a line."""
    refused = ", ".join(f"{count} {reason}" for reason, count in content["rejected"].items())
    return (
        f"{content['num_clips']} clips ({content['num_held_out']} held out), {content['footage_seconds']:.0f} s, "
        f"mp4 {content['mp4_psnr']['mean']:.1f} dB; files refused: {content['num_rejected']}"
        + (f" ({refused})" if refused else "")
    )


def draw(folder: Path, catalog: pd.DataFrame, pictures: Path) -> None:
    """Write ``contact_sheet.png``, ``filmstrips.png``, and ``factors.png`` or ``sources.png``."""
    _save(contact_sheet(folder, catalog), pictures / "contact_sheet.png")
    _save(filmstrips(folder, catalog), pictures / "filmstrips.png")
    if factor_names(catalog):
        _save(factor_counts(catalog), pictures / "factors.png")
    else:
        _save(source_counts(catalog), pictures / "sources.png")


def _save(figure: Figure, path: Path) -> None:
    """Write a PNG of a palette, as many colours as the size allows: pictures of clips are kept in a database."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba")
    width, height = figure.canvas.get_width_height()
    picture = Image.frombytes("RGBA", (width, height), buffer.getvalue()).convert("RGB")
    for colors in (256, 128, 64):
        picture.quantize(colors, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= MAX_BYTES:
            return


def _figure(width: float, height: float, title: str) -> Figure:
    """A figure in inches with room for a title of its own at the left."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    figure.text(0.012, 1 - 0.26 / height, title, fontsize=11, fontweight="bold", color=INK, va="center")
    return figure


def _show(axes: Axes, pixels: np.ndarray) -> None:
    axes.imshow(pixels, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def contact_sheet(folder: Path, catalog: pd.DataFrame) -> Figure:
    """The middle frames of up to 30 clips spread over the catalog, with their captions; held-out ones are marked."""
    rows = catalog.iloc[np.unique(np.linspace(0, len(catalog) - 1, min(SHEET, len(catalog))).round().astype(int))]
    columns = min(6, len(rows))
    lines = -(-len(rows) // columns)
    height = 0.45 + lines * 2.05
    figure = _figure(1.62 * 6, height, f"{len(rows)} of {len(catalog)} clips: middle frame and caption (* held out)")
    for place, (_, clip) in enumerate(rows.iterrows()):
        left, top = place % columns, place // columns
        box = (0.008 + left / 6, 1 - (0.45 + top * 2.05 + 1.48) / height, 1 / 6 - 0.016, 1.48 / height)
        axes = figure.add_axes(box)
        frames = read_clip(folder / clip["file"])
        _show(axes, frames[len(frames) // 2])
        words = ("* " if clip["split"] == "held_out" else "") + str(clip["caption"])
        text = "\n".join(textwrap.wrap(words, 31, max_lines=4, placeholder=" …"))
        axes.text(0, -0.03, text, transform=axes.transAxes, fontsize=6.2, va="top", color=INK, linespacing=1.05)
    return figure


def _strip_rows(catalog: pd.DataFrame) -> pd.DataFrame:
    """Clips that show the motions one by one where they are known, else clips spread over the catalog."""
    if not {FACTOR_PREFIX + name for name in MOTION} <= set(catalog):
        spread = np.linspace(0, len(catalog) - 1, min(STRIPS, len(catalog))).round().astype(int)
        return catalog.iloc[np.unique(spread)]
    wanted = [("right", "fast", "none", "none"), ("left", "slow", "none", "none")]
    wanted += [("up", "fast", "none", "none"), ("down", "slow", "none", "none")]
    wanted += [("right", "slow", "spinning", "none"), ("up", "fast", "spinning", "none")]
    wanted += [("left", "fast", "none", "growing"), ("down", "fast", "none", "shrinking")]
    motions = catalog[[FACTOR_PREFIX + name for name in MOTION]]
    alike = [(motions == one).sum(axis=1).to_numpy() for one in wanted]
    chosen: list[int] = []
    for score in alike:
        order = np.argsort(-score, kind="stable")
        chosen += [int(row) for row in order if int(row) not in chosen][:1]
    return catalog.iloc[chosen]


def filmstrips(folder: Path, catalog: pd.DataFrame) -> Figure:
    """Nine frames of a few clips, from the first to the last, with their captions."""
    rows = _strip_rows(catalog)
    height, label, side = 0.75 + 1.0 * len(rows), 1.75, 0.9
    width = label + 9 * side + 0.1
    figure = _figure(width, height, "Clips over time (the first frame at the left, seconds above)")
    for place, (_, clip) in enumerate(rows.iterrows()):
        frames = read_clip(folder / clip["file"])
        shown = np.linspace(0, len(frames) - 1, min(9, len(frames))).round().astype(int)
        bottom = 1 - (0.75 + place * 1.0 + 0.92) / height
        text = "\n".join(textwrap.wrap(str(clip["caption"]), 27, max_lines=5, placeholder=" …"))
        figure.text(0.012, bottom + 0.46 / height, text, fontsize=7, va="center", color=INK)
        for column, frame in enumerate(shown):
            axes = figure.add_axes(((label + column * side) / width, bottom, 0.86 / width, 0.92 / height))
            _show(axes, frames[frame])
            if place == 0:
                axes.set_title(f"{frame / clip['frame_rate']:.2f} s", fontsize=7, color=QUIET, pad=3)
    return figure


def factor_counts(catalog: pd.DataFrame) -> Figure:
    """How many clips have each value of each known factor, held-out ones apart."""
    names = factor_names(catalog)
    lines = -(-len(names) // 5)
    figure = _figure(9.72, 0.75 + 1.95 * lines, f"Factor values over {len(catalog)} clips")
    held_out = catalog["split"] == "held_out"
    for place, name in enumerate(names):
        axes = figure.add_subplot(lines, 5, place + 1)
        column = catalog[FACTOR_PREFIX + name]
        values = sorted(column.unique(), reverse=True)
        train = [int(((column == value) & ~held_out).sum()) for value in values]
        apart = [int(((column == value) & held_out).sum()) for value in values]
        axes.barh(values, train, color=BLUE, label="train")
        axes.barh(values, apart, left=train, color=ORANGE, label="held out")
        axes.set_title(name, fontsize=9, color=INK)
        _quiet(axes)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="upper right", ncols=2, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.42 / figure.get_figheight()))
    return figure


def source_counts(catalog: pd.DataFrame) -> Figure:
    """How many clips each video gave: the 20 videos with most clips."""
    counts = catalog["source"].value_counts()
    shown = counts.head(20)[::-1]
    title = f"Clips per video ({len(shown)} of {len(counts)} videos, those with most clips)"
    figure = _figure(9.72, 1.0 + 0.26 * max(4, len(shown)), title)
    axes = figure.add_subplot()
    held_out = set(catalog["source"][catalog["split"] == "held_out"])
    names = [textwrap.shorten(str(name), 48, placeholder="…") for name in shown.index]
    colors = [ORANGE if name in held_out else BLUE for name in shown.index]
    axes.barh(range(len(shown)), shown.to_numpy(), color=colors)
    axes.set_yticks(range(len(shown)), names)
    axes.set_xlabel("clips (orange: some are held out)", fontsize=8)
    _quiet(axes)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.42 / figure.get_figheight()))
    return figure


def _quiet(axes: Axes) -> None:
    axes.tick_params(labelsize=8, colors=INK, length=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
