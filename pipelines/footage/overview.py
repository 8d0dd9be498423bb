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
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from pipelines import stage
from pipelines.data.catalog import FACTOR_PREFIX, JUDGED, SPLITS, TRAIN, factor_names
from pipelines.data.stored import read_stored
from pipelines.drawing import drawn, new_figure, one_line, palette
from pipelines.footage.factors import MOTION, STEERED
from pipelines.footage.storing import Made

SHEET = 30
SHOWN_MOTIONS = (
    ("right", "fast", "none", "none"),
    ("left", "slow", "none", "none"),
    ("up", "fast", "none", "none"),
    ("down", "slow", "none", "none"),
    ("right", "slow", "spinning", "none"),
    ("up", "fast", "spinning", "none"),
    ("left", "fast", "none", "growing"),
    ("down", "fast", "none", "shrinking"),
    (STEERED,) * 4,
    (STEERED,) * 4,
)
"""Values of MOTION for the filmstrips."""
GREY, PALE, INK, QUIET = "#999999", "#dddddd", "#222222", "#777777"
SPLIT_COLORS: dict[str, str] = dict(zip(SPLITS, ("#0072B2", "#E69F00", "#009E73", "#CC79A7"), strict=True))
DPI = 120


def numbers(catalog: pd.DataFrame, made: Made) -> dict[str, Any]:
    """The metrics: counts, seconds of footage, refused files by reason, and the PSNR of the mp4 files in dB."""
    seconds = catalog["end_seconds"].to_numpy() - catalog["start_seconds"].to_numpy()
    found = {
        "num_clips": len(catalog),
        "splits": {name: count for name in SPLITS if (count := catalog["split"].tolist().count(name))},
        "num_sources": made.num_files - len(made.rejected),
        "footage_seconds": float(seconds.sum()),
        "num_rejected": len(made.rejected),
        "rejected_share": len(made.rejected) / made.num_files,
        "rejected": dict(sorted(Counter(row["reason"] for row in made.rejected).items())),
        "mp4_psnr": {"mean": float(np.mean(made.fidelity)), "lowest": float(np.min(made.fidelity))},
    }
    if made.files_decoded is not None:
        refused = {name: sum(one[f"{name}_decision"] == "refused" for one in made.decisions) for name in JUDGED}
        found |= {
            "files_decoded": made.files_decoded,
            "not_used": dict(sorted(made.absent.items())),
            **{name: round(value, 3) for name, value in made.seen.items()},
            "clips_cut": len(made.decisions),
            "cut_seconds": sum(one["end_seconds"] - one["start_seconds"] for one in made.decisions),
            "clips_refused": len(made.decisions) - len(catalog),
            "clips_refused_by": refused,
        }
    return found


def summary(content: Mapping[str, Any]) -> str:
    """The numbers in a line."""
    refused = ", ".join(f"{count} {reason}" for reason, count in content["rejected"].items())
    splits = ", ".join(f"{count} {name}" for name, count in content["splits"].items())
    return (
        f"{content['num_clips']} clips ({splits}), {content['footage_seconds']:.0f} s, "
        f"mp4 {content['mp4_psnr']['mean']:.1f} dB; files refused: {content['num_rejected']}"
        + (f" ({refused})" if refused else "")
        + "".join(f"; {reason}: {count}" for reason, count in content.get("not_used", {}).items())
        + (f"; clips refused: {content['clips_refused']}" if content.get("clips_refused") else "")
    )


@drawn
def draw(folder: Path, catalog: pd.DataFrame, made: Made, pictures: Path) -> None:
    """Write ``contact_sheet.png``, ``filmstrips.png``, and ``factors.png`` or ``sources.png``."""
    _save(contact_sheet(folder, catalog), pictures / "contact_sheet.png")
    _save(filmstrips(folder, catalog), pictures / "filmstrips.png")
    if factor_names(catalog):
        _save(factor_counts(catalog), pictures / "factors.png")
    else:
        _save(source_counts(catalog, made), pictures / "sources.png")


def _save(figure: Figure, path: Path) -> None:
    """Write a PNG of 256 colours, spread so that small bright sprites keep theirs; a third of the bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba")
    picture = Image.frombytes("RGBA", FigureCanvasAgg(figure).get_width_height(), buffer.getvalue()).convert("RGB")
    with stage.bookkeeping(f"the picture {path}"):
        palette(picture).save(path, optimize=True)


def _figure(width: float, height: float, title: str) -> Figure:
    """A figure in inches with its title at the top left."""
    figure = new_figure(figsize=(width, height), dpi=DPI, facecolor="white")
    figure.text(0.012, 1 - 0.26 / height, title, fontsize=11, fontweight="bold", color=INK, va="center")
    return figure


def _canvas(figure: Figure) -> Axes:
    """The whole figure as one system of axes, from 0 to 1, for any number of pictures; axes for each take longer."""
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(0, 1))
    axes.set_axis_off()
    return axes


def _show(canvas: Axes, pixels: np.ndarray, box: Sequence[float], anchor: tuple[float, float]) -> tuple[float, float]:
    """Draw pixels as large as fits into (left, bottom, width, height); the bottom and the height that they have.

    ``anchor``: what share of the room that is left over is at the left and what at the bottom.
    """
    width, height = canvas.bbox.size
    left, bottom, wide, tall = box
    side = min(wide * width / pixels.shape[1], tall * height / pixels.shape[0])
    shown_wide, shown_tall = side * pixels.shape[1] / width, side * pixels.shape[0] / height
    left += anchor[0] * (wide - shown_wide)
    bottom += anchor[1] * (tall - shown_tall)
    extent = (left, left + shown_wide, bottom, bottom + shown_tall)
    canvas.imshow(pixels, extent=extent, interpolation="nearest", aspect="auto")
    return bottom, shown_tall


def _spread(catalog: pd.DataFrame, most: int) -> list[dict[str, Any]]:
    """Up to ``most`` rows, evenly spread over the catalog."""
    places = np.linspace(0, len(catalog) - 1, min(most, len(catalog))).round().astype(int)
    return [dict(catalog.iloc[int(place)]) for place in np.unique(places)]


def contact_sheet(folder: Path, catalog: pd.DataFrame) -> Figure:
    """The middle frames of up to 30 clips spread over the catalog, with captions; * where training does not see it."""
    rows = _spread(catalog, SHEET)
    tall = 1.46 * min(2.0, rows[0]["height"] / rows[0]["width"])
    cell = tall + 0.57
    height = 0.45 + -(-len(rows) // 6) * cell
    figure = _figure(
        1.62 * 6, height, f"{len(rows)} of {len(catalog)} clips: middle frame and caption (* not trained on)"
    )
    canvas = _canvas(figure)
    for place, clip in enumerate(rows):
        left, top = place % 6, place // 6
        box = (0.008 + left / 6, 1 - (0.45 + top * cell + tall) / height, 1 / 6 - 0.016, tall / height)
        frames = read_stored(folder, clip)
        bottom, shown = _show(canvas, frames[len(frames) // 2], box, anchor=(0, 1))
        words = ("" if clip["split"] == TRAIN else "* ") + clip["caption"]
        text = "\n".join(textwrap.wrap(one_line(words, 300), 31, max_lines=4, placeholder=" …"))
        canvas.text(box[0], bottom - 0.03 * shown, text, fontsize=6.2, va="top", color=INK, linespacing=1.05)
    return figure


def _motion_rows(catalog: pd.DataFrame) -> list[dict[str, Any]]:
    """Clips that show the known motions one by one: per wanted motion, the one that agrees with it most."""
    motions = catalog[[FACTOR_PREFIX + name for name in MOTION]].to_numpy()
    chosen: list[int] = []
    for wanted in SHOWN_MOTIONS:
        order = np.argsort(-(motions == np.array(wanted)).sum(axis=1), kind="stable")
        chosen += [int(row) for row in order if int(row) not in chosen][:1]
    return [dict(catalog.iloc[row]) for row in chosen]


def filmstrips(folder: Path, catalog: pd.DataFrame) -> Figure:
    """Frames of a few clips from the first to the last, with their captions; known motions are shown one by one."""
    known = {FACTOR_PREFIX + name for name in MOTION} <= set(catalog)
    rows, columns = (_motion_rows(catalog), 9) if known else (_spread(catalog, 5), 7)
    width, label = 9.85, 1.7
    side = (width - label - 0.05) / columns
    tall = 0.96 * side * min(2.0, rows[0]["height"] / rows[0]["width"])
    height = 0.75 + (tall + 0.1) * len(rows)
    figure = _figure(width, height, f"{len(rows)} of {len(catalog)} clips over time")
    canvas = _canvas(figure)
    for place, clip in enumerate(rows):
        frames = read_stored(folder, clip)
        bottom = 1 - (0.7 + place * (tall + 0.1) + tall) / height
        text = "\n".join(textwrap.wrap(one_line(clip["caption"], 300), 27, max_lines=5, placeholder=" …"))
        figure.text(0.012, bottom + tall / 2 / height, text, fontsize=7, va="center", color=INK)
        for column, frame in enumerate(np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)):
            box = ((label + column * side) / width, bottom, 0.96 * side / width, tall / height)
            under, shown = _show(canvas, frames[frame], box, anchor=(0.5, 0.5))
            if place == 0:
                middle, above = box[0] + box[2] / 2, under + shown + 3 / 72 / height
                words = f"{frame / clip['frame_rate']:.2f} s"
                canvas.text(middle, above, words, fontsize=7, ha="center", va="baseline", color=QUIET)
    return figure


def _bars(axes: Axes, column: np.ndarray, values: Sequence[Any], splits: np.ndarray) -> None:
    """How often each value stands in a column, a bar of one piece per split."""
    begin = np.zeros(len(values), int)
    for split in (name for name in SPLITS if (splits == name).any()):
        here = Counter(column[splits == split].tolist())
        counts = np.array([here[value] for value in values])
        axes.barh(range(len(values)), counts, left=begin, color=SPLIT_COLORS[split], label=split)
        begin += counts


def factor_counts(catalog: pd.DataFrame) -> Figure:
    """How many clips have each value of each known factor, by split."""
    names = factor_names(catalog)
    lines = -(-len(names) // 5)
    figure = _figure(9.72, 0.75 + 1.95 * lines, f"Factor values over {len(catalog)} clips")
    for place, name in enumerate(names):
        axes = figure.add_subplot(lines, 5, place + 1)
        column = catalog[FACTOR_PREFIX + name].to_numpy()
        values = sorted(set(column), reverse=True)
        _bars(axes, column, values, catalog["split"].to_numpy())
        axes.set_yticks(range(len(values)), values)
        axes.set_title(name, fontsize=9, color=INK)
        _quiet(axes)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="upper right", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.42 / figure.get_figheight()))
    return figure


def source_counts(catalog: pd.DataFrame, made: Made) -> Figure:
    """How many clips each video gave (the 20 with most), by split; how many files were refused or not used, and why."""
    clips = Counter(catalog["source"].tolist())
    shown = [name for name, _ in clips.most_common(20)][::-1]
    reasons = Counter(row["reason"] for row in made.rejected).most_common()
    absent = made.absent.most_common(20)
    rows = max(4, len(shown), len(reasons) + len(absent))
    figure = _figure(9.72, 1.1 + 0.26 * rows, "Where the clips are from, and what was refused or not used")
    left, right = figure.subplots(1, 2)
    _bars(left, catalog["source"].to_numpy(), shown, catalog["split"].to_numpy())
    left.set_yticks(range(len(shown)), [name if len(name) <= 40 else f"…{name[-39:]}" for name in shown])
    left.set_title(f"clips per video ({len(shown)} of {len(clips)} videos)", fontsize=9, color=INK)
    told = [*((*one, GREY) for one in reasons), *((*one, PALE) for one in absent)][::-1]
    right.barh(range(len(told)), [count for _, count, _ in told], color=[color for _, _, color in told])
    right.set_yticks(range(len(told)), [name[:40] for name, _, _ in told])
    title = f"refused files ({len(made.rejected)}) and, pale, what was not used ({made.absent.total()})"
    right.set_title(title, fontsize=9, color=INK)
    for axes in (left, right):
        _quiet(axes)
        axes.set_ylim(-0.6, max(3, len(shown), len(told)) - 0.4)
    if not told:
        right.set_axis_off()
    figure.legend(*left.get_legend_handles_labels(), loc="upper right", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.42 / figure.get_figheight()))
    return figure


def _quiet(axes: Axes) -> None:
    axes.tick_params(labelsize=8, colors=INK, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
