"""Pictures of the diagnostics: where classes lie in the plane, and what the drifting kernel sees."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like
from sklearn.cluster import KMeans
from sklearn.manifold import TSNE

from pipelines.drawing import drawn, new_figure
from pipelines.representation.mae_figures import AMBER, BLUE, GREEN, GREY, ORANGE, PINK, SKY, save
from pipelines.representation.params import TsneLayout, UmapLayout
from pipelines.stage import StageError

PALETTE = (BLUE, AMBER, GREEN, ORANGE, SKY, PINK, "#000000", "#F0E442")
MARKERS = "o^sDvP"
LAYOUTS = {
    "pca": "first two principal components",
    "tsne": "t-SNE (near is alike; far says little)",
    "umap": "UMAP (near is alike; far says little)",
}


SMALL_WORDS = set("a an and as at by from in into is it its of on or over the their to while with".split())  # noqa: SIM905
"""Words that name no family of prompts."""


# ---- the plane ----------------------------------------------------------------------------------------------------


def layout(h: np.ndarray) -> np.ndarray:
    """First two principal components [N, 2] of h; the sign is fixed, so that layouts of one h can be compared."""
    centred = h.astype(np.float64) - h.mean(0, dtype=np.float64)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    kept = directions[:2]
    signs = np.sign(kept[np.arange(len(kept)), np.abs(kept).argmax(1)])
    plane = centred @ (kept * signs[:, None]).T
    return plane if plane.shape[1] == 2 else np.column_stack([plane, np.zeros(len(plane))])


def prompt_families(prompts: np.ndarray, texts: Sequence[str], seed: int, count: int = 6) -> np.ndarray:
    """A name per sample: k-means families of prompt embeddings, named by the two words most typical of the family,
    :data:`SMALL_WORDS` apart."""
    distinct = len(np.unique(prompts, axis=0))
    labels = KMeans(min(count, distinct), n_init="auto", random_state=seed).fit_predict(prompts)
    words = [set(text.lower().split()) - SMALL_WORDS for text in texts]
    everywhere = Counter(word for found in words for word in found)
    names = {}
    for family in np.unique(labels):
        inside = Counter(word for found, label in zip(words, labels, strict=True) if label == family for word in found)
        size = int((labels == family).sum())
        score = {word: n / size - everywhere[word] / len(texts) for word, n in inside.items()}
        names[family] = f"{family + 1}: " + ", ".join(sorted(score, key=lambda word: (-score[word], word))[:2])
    return np.array([names[label] for label in labels])


def check_layout(layout: TsneLayout | UmapLayout | None) -> None:
    """Check, before any work, that what the layout needs is installed.

    Raises:
        StageError: UMAP is asked for and missing.
    """
    if isinstance(layout, UmapLayout) and importlib.util.find_spec("umap") is None:
        raise StageError(
            "diagnostics.layout: umap-learn is not installed. Run `pip install -e .[umap]`, "
            "or set layout to {kind: tsne, perplexity: 30.0} or null."
        )


def layouts(h: np.ndarray, second: TsneLayout | UmapLayout | None, seed: int) -> dict[str, np.ndarray]:
    """Layouts [N, 2] of h [N, D] by name: ``pca`` always, and the second one, started from it.

    t-SNE: van der Maaten and Hinton 2008; UMAP: arXiv:1802.03426. Both are deterministic for a seed.
    """
    found = {"pca": layout(h)}
    if isinstance(second, TsneLayout):
        model = TSNE(2, perplexity=min(second.perplexity, (len(h) - 1) / 3), init="pca", max_iter=500)
        found["tsne"] = model.set_params(random_state=seed).fit_transform(h.astype(np.float64))
    elif second is not None:
        umap = importlib.import_module("umap")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a seed makes it use one thread; wanted
            size = min(second.neighbours, len(h) - 1)
            model = umap.UMAP(n_neighbors=size, min_dist=second.min_distance, random_state=seed, init="pca")
            found["umap"] = np.asarray(model.fit_transform(h))
    return found


def _colours(values: Sequence[str]) -> list[str]:
    """A colour per value; values that name colours are drawn in them (white as light grey)."""
    named = {"white": "#B9B9B9", "yellow": "#E0B400"}
    if all(is_color_like(value) and not value.isdigit() for value in values):
        return [named.get(value, value) for value in values]
    return [PALETTE[number % len(PALETTE)] for number in range(len(values))]


def scatter(axes: Axes, plane: np.ndarray, values: np.ndarray, title: str, among: np.ndarray | None = None) -> None:
    """Points of a layout [N, 2] coloured by value: a legend for few values, numbers at medians for many.

    ``among``: all values that pictures to be compared show (sorted), so that each has one colour in all of them.
    """
    different, known = np.unique(values), np.unique(values) if among is None else among
    for number, (value, colour) in enumerate(zip(known, _colours([str(v) for v in known]), strict=True)):
        if value not in different:
            continue
        marker = MARKERS[number // len(PALETTE) % len(MARKERS)]
        at = plane[values == value]
        axes.scatter(at[:, 0], at[:, 1], 11, color=colour, label=str(value), marker=marker, linewidths=0, alpha=0.8)
    if len(different) <= 8:
        axes.legend(
            frameon=False, fontsize=8, markerscale=2, handletextpad=0.1, loc="upper left", bbox_to_anchor=(1, 1)
        )
    else:
        for value in different[:64]:
            x, y = np.median(plane[values == value], axis=0)
            axes.text(x, y, str(value), fontsize=8, ha="center", va="center", fontweight="bold", bbox=BADGE)
    axes.set_title(title, loc="left", fontsize=11)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#CCCCCC")


BADGE = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}


@drawn
def draw_projection(
    plane: np.ndarray, labels: np.ndarray, colourings: Mapping[str, np.ndarray], title: str, path: Path
) -> None:
    """One layout [N, 2], coloured by class, by known factors and by prompt family."""
    rows = -(-(len(colourings) + 1) // 2)
    figure = new_figure(figsize=(12, 4.2 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    scatter(grid[0], plane, labels, "by class (number at the class's median)")
    for axes, (name, values) in zip(grid[1:], colourings.items(), strict=False):
        scatter(axes, plane, values, f"by {name}")
    for axes in grid[len(colourings) + 1 :]:
        axes.set_visible(False)
    figure.suptitle(title)
    save(figure, path, 84)


# ---- the kernel ---------------------------------------------------------------------------------------------------


@drawn
def draw_kernel(
    distances: Mapping[str, tuple[np.ndarray, np.ndarray]],
    taus: Sequence[float],
    numbers: Mapping[str, Any],
    path: Path,
) -> None:
    """A row per feature: distances to positives and negatives, and the logits -d / (S tau) at every temperature."""
    figure = new_figure(figsize=(13, 0.6 + 2.9 * len(distances)), layout="constrained")
    grid = figure.subplots(len(distances), len(taus) + 1, squeeze=False)
    for row, (name, (near, far)) in zip(grid, distances.items(), strict=True):
        _sides(row[0], near, far, "distance / mean distance", name)
        for axes, tau in zip(row[1:], taus, strict=True):
            found = numbers[name][f"tau_{tau:g}"]
            near_count, far_count = found["effective_positives_p50"], found["effective_negatives_p50"]
            title = f"tau {tau:g}: {near_count:.1f} positives,\n{far_count:.1f} negatives count"
            _sides(axes, -near / tau, -far / tau, "logit", title)
    grid[0, 0].legend(frameon=False, fontsize=9)
    figure.suptitle("What the drifting kernel sees of a class (positives) and of the others (negatives), per feature")
    save(figure, path, 84)


def _sides(axes: Axes, near: np.ndarray, far: np.ndarray, label: str, title: str) -> None:
    bins = np.linspace(min(near.min(), far.min()), max(near.max(), far.max()), 40)
    for values, colour, alpha, side in ((near, BLUE, 0.65, "positives"), (far, ORANGE, 0.55, "negatives")):
        # one shape: a bar each, in twenty panels, took half of the stage's drawing
        axes.stairs(*np.histogram(values, bins, density=True), fill=True, color=colour, alpha=alpha, label=side)
    axes.set(xlabel=label, yticks=[])
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.axvline(0, color=GREY, linewidth=0.6)
