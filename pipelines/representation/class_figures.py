"""Pictures of classes: how full they are, what they follow, what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.drawing import drawn, new_figure
from pipelines.representation.mae_figures import AMBER, BLUE, GREEN, GREY, ORANGE, save
from pipelines.representation.occupancy import lorenz

LEVELS = (("nmi_chance", "--", "chance"), ("nmi_most", ":", "the most that classes of these sizes can reach"))
"""Numbers beside the NMI of the classes: their line and what they are."""


@drawn
def draw_occupancy(counts: np.ndarray, numbers: Mapping[str, Any], path: Path) -> None:
    """Samples per class, fullest first, and the Lorenz curve."""
    figure = new_figure(figsize=(12, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    ordered = np.sort(counts)[::-1]
    left.bar(range(len(ordered)), ordered, color=BLUE, width=0.85 if len(ordered) < 100 else 1.0)
    left.axhline(counts.mean(), color=ORANGE, linestyle="--", linewidth=1.5, label=f"mean {counts.mean():.1f}")
    left.set(xlabel="class, fullest first", ylabel="train samples", xlim=(-0.7, len(ordered) - 0.3))
    left.set_title(
        f"{numbers['non_empty']} of {len(counts)} classes filled, entropy ratio {numbers['entropy_ratio']:.2f} "
        f"(1 = even), largest holds {100 * numbers['largest_share']:.1f} %",
        loc="left",
        fontsize=11,
    )
    left.legend(frameon=False)
    classes, samples = lorenz(counts)
    right.plot(classes, samples, color=BLUE, linewidth=2)
    right.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    right.fill_between(classes, samples, classes, color=BLUE, alpha=0.12)
    right.set(xlabel="share of classes, emptiest first", ylabel="share of samples", xlim=(0, 1), ylim=(0, 1))
    right.set_title("Lorenz curve (dashed: all equal)", loc="left", fontsize=11)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


@drawn
def draw_agreement(
    agreement: Mapping[str, Mapping[str, float]], others: Mapping[str, Mapping[str, float]], path: Path
) -> None:
    """NMI of the classes with every known factor, beside k-means on other spaces, chance and the most there can be."""
    factors = sorted(agreement, key=lambda name: (name not in ("identity", "motion"), -agreement[name]["nmi"]))
    series: list[tuple[str, str, list[float]]] = [
        ("pseudo-classes", BLUE, [agreement[name]["nmi"] for name in factors])
    ]
    labels = (("pca_latents", AMBER, "k-means on PCA of latents"), ("raw_latents", GREY, "k-means on raw latents"))
    labels += (("text", GREEN, "k-means on prompts"),)
    series += [(label, colour, [others[key][n] for n in factors]) for key, colour, label in labels if key in others]
    figure = new_figure(figsize=(12, 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.84 / len(series)
    for number, (label, colour, heights) in enumerate(series):
        axes.bar(np.arange(len(factors)) - 0.42 + width * (number + 0.5), heights, width, color=colour, label=label)
    for number, name in enumerate(factors):
        for key, style, words in LEVELS:
            label = words if number == 0 else "_"
            axes.hlines(
                agreement[name][key], number - 0.45, number + 0.45, color="black", ls=style, linewidth=1.2, label=label
            )
    axes.set_xticks(range(len(factors)), factors)
    axes.set(ylabel="normalised mutual information")
    axes.set_title("What the classes follow: agreement with the known factors of the clips", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    save(figure, path)


@drawn
def draw_composition(labels: np.ndarray, factors: Mapping[str, np.ndarray], classes: int, path: Path) -> None:
    """Share of every factor value in every class, classes ordered so that likes stand together."""
    blocks, names = [], []
    for factor, values in factors.items():
        for value in np.unique(values):
            counts = np.bincount(labels[values == value], minlength=classes)
            blocks.append(counts / np.maximum(np.bincount(labels, minlength=classes), 1))
            names.append(f"{factor}: {value}")
    table = np.stack(blocks)
    sharp = {
        factor: np.stack([b for b, n in zip(blocks, names, strict=True) if n.startswith(f"{factor}: ")])
        for factor in factors
    }
    keys = sorted(sharp, key=lambda factor: -sharp[factor].max(0).mean())
    order = np.lexsort([sharp[factor].argmax(0) for factor in reversed(keys)])
    figure = new_figure(figsize=(12, 1.2 + 0.27 * len(names)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table[:, order], aspect="auto", cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_xticks(range(classes), [str(c) for c in order], fontsize=7) if classes <= 64 else axes.set_xticks([])
    axes.set_xlabel("class")
    edges = np.cumsum([len(sharp[factor]) for factor in factors])[:-1] - 0.5
    axes.hlines(edges, -0.5, classes - 0.5, color="white", linewidth=1.5)
    figure.colorbar(image, ax=axes, label="share of the class", pad=0.01)
    axes.set_title("What each class holds: one bright cell per factor means that the class is pure in it", loc="left")
    save(figure, path)
