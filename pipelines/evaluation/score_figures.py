"""Pictures of the evaluation: samples side by side, and scores as bars beside real clips and chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipelines import stage
from pipelines.drawing import drawn, new_figure, one_line
from pipelines.evaluation.video_metrics import bytes_of

COLOURS = {
    "rectified_flow": "#0072B2",
    "anchored_flow_identity": "#E69F00",
    "anchored_flow_motion": "#D55E00",
    "anchored_flow_unified": "#CC79A7",
}
OTHERS = "#009E73", "#CC79A7", "#56B4E9", "#999999"
INK, QUIET = "#1d2026", "#646b77"
FRAMES_SHOWN, ROWS_SHOWN = 4, 6
OVER_LINES = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
UPRIGHT = 3
"""Beside more systems a bar is narrower than a number, which then stands upright in it."""
GROUPS = {"all_identity": "identity", "all_motion": "motion", "all_scene": "scene"}


def frames_of(video: Tensor) -> np.ndarray:
    """One clip [3, T, H, W] as uint8 [T, H, W, 3]."""
    return bytes_of(video).permute(1, 2, 3, 0).numpy()


def title_of(system: str) -> str:
    """A system's name as a heading."""
    return {"held_out": "real (held out)"}.get(system, system.replace("_", " "))


# ---- contact sheet ------------------------------------------------------------------------------------------------


def _strip(video: Tensor, scale: int) -> Image.Image:
    """A few frames of one clip side by side, enlarged without smoothing."""
    frames = frames_of(video)
    places = np.linspace(0, len(frames) - 1, FRAMES_SHOWN).round().astype(int)
    strip = Image.fromarray(np.concatenate([frames[place] for place in places], axis=1))
    return strip.resize((strip.width * scale, strip.height * scale), Image.Resampling.NEAREST)


@drawn
def contact_sheet(clips: Mapping[str, Tensor], prompts: Sequence[str], path: Path) -> None:
    """Rows are prompts, columns are systems, each with a few frames in order. Clips are [N, 3, T, H, W]."""
    count = min(len(prompts), ROWS_SHOWN)
    height, width = next(iter(clips.values())).shape[3:]
    scale = max(1, 72 // max(height, width))
    strip, gap, top, line = width * scale * FRAMES_SHOWN, 14, 30, 22
    row = height * scale + line + 8
    sheet = Image.new("RGB", ((strip + gap) * len(clips) + gap, top + row * count + 4), "white")
    draw, font, bold = ImageDraw.Draw(sheet), ImageFont.load_default(14), ImageFont.load_default(16)
    for column, (name, videos) in enumerate(clips.items()):
        left = gap + column * (strip + gap)
        draw.text((left, 7), title_of(name), fill=INK, font=bold)
        for number in range(count):
            y = top + number * row
            if column == 0:
                draw.text((left, y + 2), one_line(prompts[number], 140), fill=QUIET, font=font)
            sheet.paste(_strip(videos[number], scale), (left, y + line))
    with stage.bookkeeping(f"the picture {path}"):
        sheet.save(path)  # in full colour: a palette turns yellow sprites brown


# ---- scores -------------------------------------------------------------------------------------------------------


def _colours(names: Sequence[str]) -> list[str]:
    others = iter(OTHERS * len(names))
    return [COLOURS.get(name) or next(others) for name in names]


def _bars(axes: Any, results: Mapping[str, Any], score: str, title: str, lines: Mapping[str, str]) -> None:
    """A bar per system with its interval, a dashed line per reference."""
    systems = {name: row for name, row in results["systems"].items() if score in row}
    names = list(systems)
    values = [systems[name][score] for name in names]
    ends = [
        (systems[name].get(f"{score}_low", v), systems[name].get(f"{score}_high", v))
        for name, v in zip(names, values, strict=True)
    ]
    reach = np.array([[max(0.0, v - low), max(0.0, high - v)] for v, (low, high) in zip(values, ends, strict=True)]).T
    places = np.arange(len(names))[::-1]
    axes.barh(
        places,
        values,
        xerr=reach if names else None,
        color=_colours(names),
        height=0.6,
        error_kw={"lw": 1.2, "ecolor": INK},
    )
    levels = {
        words: results["references"][name][score]
        for name, words in lines.items()
        if score in results["references"][name]
    }
    least, most = (
        min([0.0, *(low for low, _ in ends), *levels.values()]),
        max([0.0, *(high for _, high in ends), *levels.values()]),
    )
    room = (most - least) or 1.0
    axes.set_xlim(least - (0.05 * room if least < 0 else 0), most + 0.18 * room)
    for place, value, (_, high) in zip(places, values, ends, strict=True):
        beside = max(value, high) + 0.015 * room
        axes.text(beside, place, f"{value:.2f}", va="center", fontsize=9.5, bbox=OVER_LINES)
    for (words, level), style in zip(levels.items(), ("--", ":", "-."), strict=False):
        axes.axvline(level, color=QUIET, linestyle=style, linewidth=1.4, label=f"{words}: {level:.2f}")
    axes.set_yticks(places, [title_of(name) for name in names])
    axes.set_ylim(-0.5, max(1, len(names)) - 0.5)
    if levels:
        axes.legend(fontsize=8.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)
    _finish(axes, title)


def _agreement(axes: Any, results: Mapping[str, Any]) -> None:
    """A group of bars per kind of factor; short lines mark chance and the ceiling of real clips."""
    systems, others = results["systems"], results["references"]
    groups = [group for group in GROUPS if group in others["chance"]["agreement"]]
    thick, upright = 0.8 / len(systems), len(systems) > UPRIGHT
    for index, (name, colour) in enumerate(zip(systems, _colours(list(systems)), strict=True)):
        places = np.arange(len(groups)) - 0.4 + (index + 0.5) * thick
        values = [systems[name]["agreement"][group] for group in groups]
        axes.bar(places, values, thick * 0.92, color=colour, label=title_of(name))
        for place, value in zip(places, values, strict=True):
            inside = value > (0.2 if upright else 0.1)  # above a low bar, else in it, clear of the lines
            at, colour_of_text = (value - 0.015, "white") if inside else (value + 0.012, INK)
            side = "top" if inside else "bottom"
            how = {"fontsize": 8.5, "color": colour_of_text, "weight": "bold", "rotation": 90 if upright else 0}
            axes.text(place, at, f"{value:.2f}", ha="center", va=side, **how)
    for place, group in enumerate(groups):
        ends = place - 0.44, place + 0.44
        ceiling, level = others["held_out"]["agreement"][group], others["chance"]["agreement"][group]
        axes.hlines(ceiling, *ends, color=INK, linewidth=1.6, label="real clips" if place == 0 else None)
        axes.hlines(level, *ends, color=QUIET, linestyle="--", linewidth=1.6, label="chance" if place == 0 else None)
    axes.set_xticks(range(len(groups)), [GROUPS[group] for group in groups])
    axes.set_ylim(0, 1.12)
    axes.legend(fontsize=8.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=3)
    _finish(axes, "prompt agreement: share of samples read as the prompt says")


def _finish(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9.5)


@drawn
def draw_scores(results: Mapping[str, Any], path: Path) -> None:
    """Kernel distances, motion ratio and, where factors are known, prompt agreement; bars carry 95 % intervals."""

    figure = new_figure(figsize=(13, 8), layout="constrained")
    panels = figure.subplots(2, 2)
    lines = {"held_out": "real clips", "frozen": "first frame repeated"}
    _bars(panels[0, 0], results, "kernel_distance", "kernel distance, all features (0: as real clips)", lines)
    _bars(panels[0, 1], results, "kernel_distance_motion", "kernel distance, motion features (0: as real clips)", lines)
    _bars(
        panels[1, 0],
        results,
        "motion_ratio",
        "motion ratio (1 is as real clips, 0 is frozen)",
        {"held_out": "real clips"},
    )
    if "chance" in results["references"]:
        _agreement(panels[1, 1], results)
    else:
        panels[1, 1].set_axis_off()
    figure.savefig(path, dpi=90)
