"""Seed D's diagrams of a training, under its names: losses, KL term, learning rates, step times, overview, summary."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.drawing import drawn, logarithmic, new_figure

OURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
"""Okabe and Ito's palette: told apart by colour-blind readers too."""
LEGEND = 8
"""Most lines that a legend names."""

Rows = Sequence[Mapping[str, Any]]


def named(rows: Rows, *prefixes: str) -> list[str]:
    """Columns that begin so, in the order in which they first come."""
    return [name for name in dict.fromkeys(name for row in rows for name in row) if name.startswith(prefixes)]


def panels(rows: Rows) -> dict[str, tuple[str, str, list[str]]]:
    """File name to title, unit and columns, of the panels that the rows have something for."""
    losses = [
        name for name in named(rows, "loss/", "validation/loss") if not name.endswith(("/kl", "loss_raw_weights"))
    ]
    found = {
        "training_losses": ("losses", "loss", [name for name in losses if "at_sigma" not in name]),
        "kl_loss": ("KL term", "KL", [name for name in named(rows, "loss/") if name.endswith("/kl")]),
        "learning_rates": ("learning rates", "rate", named(rows, "lr/")),
        "batch_times": ("step times", "seconds per step", named(rows, "throughput/step_seconds")),
        "grad_norms": ("gradient norms before clipping", "norm", named(rows, "grad_norm/")),
        "loss_by_sigma": ("loss by noise level", "loss", sorted(named(rows, "loss_by_sigma/"))),
    }
    return {file: panel for file, panel in found.items() if panel[2]}


def summary(rows: Rows, stage: str) -> list[str]:
    """Lines of text: steps, time, and of every loss its first, smallest and last value."""
    if not rows:
        return [f"{stage}: no rows"]
    times = [row["throughput/step_seconds"] for row in rows if "throughput/step_seconds" in row]
    lines = [f"{stage}: {rows[-1]['step']} steps in {rows[-1].get('seconds', 0.0):.0f} s"]
    if times:
        speed = [row["throughput/samples_per_second"] for row in rows if "throughput/samples_per_second" in row]
        lines.append(f"step: median {statistics.median(times):.3f} s, slowest {max(times):.3f} s")
        lines.append(f"samples per second: median {statistics.median(speed):.1f}")
    for name, label in (("data/wait_share", "share of time waiting for data"), ("memory/peak_gib", "peak memory, GiB")):
        values = [row[name] for row in rows if name in row]
        lines += [f"{label}: at most {max(values):.3g}"] if values else []
    for name in panels(rows).get("training_losses", ("", "", []))[2][:LEGEND]:
        values = [row[name] for row in rows if name in row]
        lines.append(f"{name}: first {values[0]:.4g}, smallest {min(values):.4g}, last {values[-1]:.4g}")
    return lines


def _draw(axes: Any, rows: Rows, title: str, unit: str, names: Sequence[str]) -> None:
    for name, colour in zip(names, OURS * 8, strict=False):
        points = [(row["step"], row[name]) for row in rows if name in row]
        style = "-" if len(points) > 1 else "o"
        axes.plot([x for x, _ in points], [y for _, y in points], style, color=colour, label=name, linewidth=1.6)
    values = [row[name] for row in rows for name in names if name in row]
    if min(values) > 0 and max(values) > 20 * min(values) and unit != "rate":
        logarithmic(axes)
    elif min(values) >= 0:
        axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=11, loc="left")
    axes.set(xlabel="step", ylabel=unit)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[:LEGEND], labels[:LEGEND], fontsize=8, framealpha=0.85, edgecolor="none")


@drawn
def draw(rows: Rows, stage: str, folder: Path) -> None:
    """Write the diagrams into ``folder``: one for each of seed D's, and ``training_overview.png`` with everything."""
    if not rows:
        return
    folder.mkdir(parents=True, exist_ok=True)
    found = panels(rows)
    schedule = ("weight of the KL term", "weight", [name for name in named(rows, "weight/") if name.endswith("/kl")])
    for file in ("training_losses", "kl_loss", "learning_rates", "batch_times"):
        if file in found:
            shown = [found[file], *([schedule] if file == "kl_loss" and schedule[2] else [])]
            figure = new_figure(figsize=(7 * len(shown), 4), layout="constrained")
            for axes, (title, unit, names) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
                _draw(axes, rows, f"{stage}: {title}", unit, names)
            figure.savefig(folder / f"{file}.png", dpi=90)
    height = -(-(len(found) + 1) // 3)
    figure = new_figure(figsize=(15, 3.8 * height), layout="constrained")
    places = figure.subplots(height, 3, squeeze=False).ravel()
    for axes, (title, unit, names) in zip(places, found.values(), strict=False):
        _draw(axes, rows, title, unit, names)
    for axes in places[len(found) :]:
        axes.set_axis_off()
    places[len(found)].text(0, 1, "\n".join(summary(rows, stage)), va="top", fontsize=9, linespacing=1.5)
    figure.suptitle(f"{stage}: training", fontsize=13, x=0.01, ha="left")
    figure.savefig(folder / "training_overview.png", dpi=80)
