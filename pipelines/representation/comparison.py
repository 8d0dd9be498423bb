"""Several reports on classes beside one another: which differences exceed the noise, and pictures side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from pipelines.drawing import new_figure
from pipelines.representation.diagnostics_figures import scatter
from pipelines.representation.mae_figures import save
from pipelines.stage import StageError

ROWS = (
    ("agreement/identity/nmi", 1),
    ("agreement/motion/nmi", 1),
    ("agreement/identity/ari", 1),
    ("agreement/motion/ari", 1),
    ("stability/ari", 1),
    ("separation/intra_inter_ratio", -1),
    ("separation/silhouette", 1),
    ("separation/davies_bouldin", -1),
    ("separation/calinski_harabasz", 1),
    ("retrieval/top1", 1),
    ("retrieval/top5", 1),
    ("retrieval/top10", 1),
    ("retrieval/text_over_random", 1),
    ("retrieval/keyframes_over_random", 1),
    ("occupancy/entropy_ratio", 1),
    ("occupancy/near_empty_share", -1),
    ("occupancy/largest_share", -1),
    ("held_out/top5_excess", 1),
    ("held_out/text_to_keyframes_top5", 1),
    ("held_out/keyframes_to_text_top5", 1),
    ("collapse/h/rankme", 0),
)
"""Numbers of a report that are compared, and whether large (1), small (-1) or neither is better."""
PROBES = ("probes/features/", "probes/h/")
KERNEL = ("effective_positives_p50", "effective_negatives_p50", "mass_ratio_p50")
"""Numbers of the drifting kernel that are compared at every temperature; neither large nor small is better."""
WIDE = 1.6
"""Pictures wider than this times their height are laid below one another."""
LESS_CHANCE = ("agreement/", "retrieval/", "held_out/", "occupancy/")
"""Blocks whose numbers are compared less their chance levels, which the number of classes alone moves."""


@dataclass(frozen=True)
class Value:
    """A number of a report; ``noise``: its standard deviation over samples and over seeds, together."""

    value: float
    noise: float
    chance: float | None


def value_at(report: Mapping[str, Any], path: str) -> Value | None:
    """The number at ``block/name`` with its noise sqrt(_std^2 + _seed_std^2), or None where the report has none."""
    *groups, name = path.split("/")
    block: Any = report
    for group in groups:
        block = block.get(group, {}) if isinstance(block, Mapping) else {}
    if name not in block:
        return None
    spreads = [float(block.get(f"{name}{suffix}", 0.0)) for suffix in ("_std", "_seed_std")]
    return Value(float(block[name]), math.hypot(*spreads), block.get(f"{name}_chance"))


def paths_of(reports: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Rows of the table: :data:`ROWS`, the kernel per temperature and a probe per factor, those that any report has."""
    factors = sorted({factor for report in reports for factor in report.get("probes", {}).get("features", {})})
    groups = {
        f"{feature}/{group}"
        for report in reports
        for feature, found in report.get("kernel", {}).items()
        for group in found
        if group.startswith("tau_")
    }
    rows = [*ROWS, *((f"kernel/{group}/{name}", 0) for group in sorted(groups) for name in KERNEL)]
    rows += ((f"{prefix}{factor}/accuracy", 1) for prefix in PROBES for factor in factors)
    return [(path, better) for path, better in rows if any(value_at(report, path) is not None for report in reports)]


def less_chance(path: str, found: Value | None) -> Value | None:
    """The number less its chance level, in the blocks :data:`LESS_CHANCE`; any other as it is."""
    if found is None or found.chance is None or not path.startswith(LESS_CHANCE):
        return found
    return replace(found, value=found.value - found.chance)


def verdict(first: Value | None, other: Value | None, better: int, sigmas: float) -> str:
    """``better``, ``worse`` or ``differs`` where |b - a| > sigmas sqrt(noise_a^2 + noise_b^2), else ``=``; ``?`` where
    one is missing. Both are treated as independent, which is careful: reports on the same clips share much noise."""
    if first is None or other is None:
        return "?"
    difference = other.value - first.value
    if abs(difference) <= sigmas * math.hypot(first.noise, other.noise):
        return "="
    return "differs" if better == 0 else "better" if difference * better > 0 else "worse"


def compared(reports: Mapping[str, Mapping[str, Any]], sigmas: float) -> pd.DataFrame:
    """One row per number: value, noise and chance level in every report, and the verdict of each against the first."""
    names, rows = list(reports), []
    for path, better in paths_of(list(reports.values())):
        values = {name: value_at(report, path) for name, report in reports.items()}
        judged = {name: less_chance(path, found) for name, found in values.items()}
        row: dict[str, Any] = {"number": path}
        for name, found in values.items():
            row[name] = None if found is None else found.value
            row[f"{name} noise"] = None if found is None else found.noise
            row[f"{name} chance"] = None if found is None else found.chance
            if name != names[0]:
                row[f"{name} verdict"] = verdict(judged[names[0]], judged[name], better, sigmas)
        rows.append(row)
    return pd.DataFrame(rows)


def _number(value: Any, noise: Any = None) -> str:
    if value is None or pd.isna(value):
        return "-"
    return f"{value:.3g}" if noise is None else f"{value:.3g} ± {noise:.2g}"


def _chances(row: Mapping[Any, Any], names: Sequence[str]) -> str:
    """The chance level, to three places; of every side, where they differ."""
    levels = [row[f"{name} chance"] for name in names]
    shown = [_number(None if level is None or pd.isna(level) else round(level, 3) + 0.0) for level in levels]
    return shown[0] if len(set(shown)) == 1 else ", ".join(shown)


def beyond_noise(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Per side after the first, the numbers that differ from the first side's by more than noise, by verdict."""
    lines = []
    for name in names[1:]:
        said = table[f"{name} verdict"]
        groups = [
            f"{word}: {', '.join(table['number'][said == word])}"
            for word in ("better", "worse", "differs")
            if word in set(said)
        ]
        lines.append(f"{name} against {names[0]}, beyond the noise: {'; '.join(groups) or 'nothing'}.")
    return lines


def as_text(table: pd.DataFrame, names: Sequence[str], sigmas: float) -> str:
    """The table for a terminal (also valid Markdown), what the verdicts mean, and what differs."""
    heads = ["number", "chance", names[0], *(word for name in names[1:] for word in (name, "against the first"))]
    lines = [heads]
    for row in table.to_dict("records"):
        cells = [str(row["number"]), _chances(row, names), _number(row[names[0]], row[f"{names[0]} noise"])]
        for name in names[1:]:
            cells += [_number(row[name], row[f"{name} noise"]), str(row[f"{name} verdict"])]
        lines.append(cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    text = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    text.insert(1, "-|-".join("-" * width for width in widths))
    share = math.erfc(sigmas / math.sqrt(2))
    note = (
        f"±: noise over samples and seeds. better, worse, differs: beyond {sigmas:g} times the noise of both, "
        f"agreement, retrieval and occupancy less their chance levels; =: within it. "
        f"By chance alone about {share * len(table):.1f} of {len(table)} rows would exceed it."
    )
    return "\n".join([*(f"| {line} |" for line in text), "", note, "", *beyond_noise(table, names)])


# ---- folders ------------------------------------------------------------------------------------------------------


def report_of(folder: Path) -> dict[str, Any]:
    """The diagnostics report of a project folder.

    Raises:
        StageError: there is none.
    """
    path = folder / "metrics" / "diagnostics.json"
    if not path.is_file():
        raise StageError(f"{path}: no such file; run the stage diagnostics there, or `dvc checkout`.")
    return json.loads(path.read_text(encoding="utf-8"))


def side_by_side(folders: Mapping[str, Path], out: Path) -> list[Path]:
    """Every picture that two of the folders have, under ``plots/``, next to one another in ``out``."""
    names = sorted({path.relative_to(f) for f in folders.values() for path in f.glob("plots/*/*.png")})
    rooms = {"latent_mae", "pseudo_classes", "diagnostics"}
    written = []
    for name in names:
        shown = {label: folder / name for label, folder in folders.items() if (folder / name).is_file()}
        if len(shown) > 1 and name.parts[1] in rooms:
            written.append(_beside(shown, out / f"{name.parts[1]}_{name.name}"))
    return written


def _beside(pictures: Mapping[str, Path], path: Path, height: int = 34) -> Path:
    """Pictures with their names above: next to one another, or below where they are much wider than high."""
    opened = {label: Image.open(picture).convert("RGB") for label, picture in pictures.items()}
    widths, heights = zip(*((one.width, height + one.height) for one in opened.values()), strict=True)
    below = max(widths) > WIDE * max(heights)
    size = (max(widths), sum(heights)) if below else (sum(widths), max(heights))
    canvas, left, top = Image.new("RGB", size, "white"), 0, 0
    draw = ImageDraw.Draw(canvas)
    for label, picture in opened.items():
        draw.text((left + 12, top + 6), label, fill="black", font=ImageFont.load_default(20))
        canvas.paste(picture, (left, top + height))
        left, top = (left, top + height + picture.height) if below else (left + picture.width, top)
    canvas.quantize(256).save(path, optimize=True)
    return path


@dataclass(frozen=True)
class Classes:
    """Classes of samples by key, and a layout [n, 2] of some of them."""

    by_key: pd.Series
    layout: pd.DataFrame


def classes_of(folder: Path) -> Classes | None:
    """The classes and the layout of a project folder, None where it lacks them."""
    places = (folder / "data/pseudo_classes/assignments.parquet", folder / "data/diagnostics/projection.parquet")
    if not all(path.is_file() for path in places):
        return None
    table, layout = (pd.read_parquet(path) for path in places)
    by_key = pd.Series(table["pseudo_class"].to_numpy(), index=table["key"].tolist())
    return Classes(by_key, pd.DataFrame(layout[["x", "y"]].to_numpy(), index=layout["key"].tolist()))


def renamed(labels: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Class numbers changed so that as many samples as possible have the number they have in ``like``."""
    size = int(max(labels.max(), like.max())) + 1
    overlap = np.zeros((size, size))
    np.add.at(overlap, (labels, like), 1)
    rows, columns = linear_sum_assignment(-overlap)
    return columns[np.argsort(rows)][labels]


def draw_one_layout(sides: Mapping[str, Classes], path: Path) -> dict[str, float]:
    """All classes in the layout of the first side, numbers matched to its; returns ARI with its classes."""
    names = list(sides)
    keys = sides[names[0]].layout.index
    for side in sides.values():
        keys = keys.intersection(side.by_key.index)
    if not len(keys):
        return {}
    plane, found = sides[names[0]].layout.loc[keys].to_numpy(), {}
    first = sides[names[0]].by_key.loc[keys].to_numpy()
    classes = {name: renamed(side.by_key.loc[keys].to_numpy(), first) for name, side in sides.items()}
    among = np.unique(np.concatenate(list(classes.values())))
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = new_figure(figsize=(6.5 * columns, 0.4 + 5.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(grid, names, strict=False):
        found[name] = float(adjusted_rand_score(first, classes[name]))
        title = name if name == names[0] else f"{name}: ARI {found[name]:.2f} with {names[0]}"
        scatter(axes, plane, classes[name], title, among)
    figure.suptitle(
        f"Classes in the layout of {names[0]} ({len(keys)} samples that all have; like classes, like colours)"
    )
    save(figure, path, 84)
    return found
