"""Pictures of the diagnostics: where classes lie, what is in them, who is near whom, what the drifting kernel sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.manifold import TSNE

from pipelines.data.shards import Shards
from pipelines.models.autoencoder import load_autoencoder
from pipelines.representation import retrieval
from pipelines.representation.mae_figures import AMBER, BLUE, GREEN, GREY, ORANGE, PINK, SKY, save

PALETTE = (BLUE, AMBER, GREEN, ORANGE, SKY, PINK, "#000000", "#F0E442")
MARKERS = "o^sDvP"
EXEMPLARS, NEIGHBOURS, QUERIES = 5, 5, 6


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
    """A name per sample: k-means families of prompt embeddings, named by the two words most typical of the family."""
    distinct = len(np.unique(prompts, axis=0))
    labels = KMeans(min(count, distinct), n_init="auto", random_state=seed).fit_predict(prompts)
    words = [set(text.lower().split()) for text in texts]
    everywhere = Counter(word for found in words for word in found)
    names = {}
    for family in np.unique(labels):
        inside = Counter(word for found, label in zip(words, labels, strict=True) if label == family for word in found)
        size = int((labels == family).sum())
        score = {word: n / size - everywhere[word] / len(texts) for word, n in inside.items()}
        names[family] = f"{family + 1}: " + ", ".join(sorted(score, key=lambda word: (-score[word], word))[:2])
    return np.array([names[label] for label in labels])


def tsne(h: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """t-SNE layout [N, 2] of h, started from its principal components (van der Maaten and Hinton 2008)."""
    most = (len(h) - 1) / 3
    model = TSNE(2, perplexity=min(perplexity, most), init="pca", max_iter=500, random_state=seed)
    return model.fit_transform(h.astype(np.float64))


def _colours(values: Sequence[str]) -> list[str]:
    """A colour per value; values that name colours are drawn in them (white as light grey)."""
    named = {"white": "#B9B9B9", "yellow": "#E0B400"}
    if all(is_color_like(value) and not value.isdigit() for value in values):
        return [named.get(value, value) for value in values]
    return [PALETTE[number % len(PALETTE)] for number in range(len(values))]


def _scatter(axes: Axes, plane: np.ndarray, values: np.ndarray, title: str) -> None:
    different = np.unique(values)
    for number, (value, colour) in enumerate(zip(different, _colours([str(v) for v in different]), strict=True)):
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


def draw_projection(
    plane: np.ndarray, labels: np.ndarray, colourings: Mapping[str, np.ndarray], title: str, path: Path
) -> None:
    """One layout [N, 2], coloured by class, by known factors and by prompt family."""
    rows = -(-(len(colourings) + 1) // 2)
    figure = Figure(figsize=(12, 4.2 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    _scatter(grid[0], plane, labels, "by class (number at the class's median)")
    for axes, (name, values) in zip(grid[1:], colourings.items(), strict=False):
        _scatter(axes, plane, values, f"by {name}")
    for axes in grid[len(colourings) + 1 :]:
        axes.set_visible(False)
    figure.suptitle(title)
    save(figure, path, 84)


# ---- clips --------------------------------------------------------------------------------------------------------


class Decoder:
    """Decoded key frames of measured samples, a few at a time."""

    def __init__(self, shards: Shards, rows: np.ndarray, autoencoder: Path) -> None:
        self.shards, self.rows = shards, rows
        self.network = load_autoencoder(autoencoder)

    @torch.no_grad()
    def frames(self, samples: np.ndarray, count: int) -> np.ndarray:
        """``count`` frames spread over each clip: [N, count, H, W, 3] in [0, 1]."""
        latents = torch.from_numpy(self.shards.load(self.rows[samples], "latents").astype(np.float32))
        video = ((self.network.decode(latents).float() + 1) / 2).clamp(0, 1).numpy().transpose(0, 2, 3, 4, 1)
        return video[:, np.linspace(0, video.shape[1] - 1, count).round().astype(int)]


def _strip(frames: np.ndarray) -> np.ndarray:
    """Frames [n, H, W, 3] side by side."""
    return np.concatenate(list(frames), axis=1)


def _show(axes: Axes, frames: np.ndarray, edge: str | None) -> None:
    axes.imshow(_strip(frames))
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(edge is not None)
        spine.set(color=edge or "white", linewidth=3)


def chosen_classes(labels: np.ndarray, seed: int) -> list[tuple[str, int]]:
    """Two largest, two smallest and two random classes (fewer where there are fewer), with the word for each."""
    classes, counts = np.unique(labels, return_counts=True)
    ordered = classes[np.argsort(-counts, kind="stable")].tolist()
    words = [("largest", label) for label in ordered[:2]] + [("smallest", label) for label in ordered[2:][-2:]]
    rest = ordered[2:-2]
    picked = np.random.default_rng(seed).permutation(rest)[:2].tolist() if rest else []
    return words + [("random", int(label)) for label in picked]


def draw_exemplars(
    decoder: Decoder, h: np.ndarray, labels: np.ndarray, centroids: np.ndarray, seed: int, path: Path
) -> None:
    """Per class, the clips nearest to its centre: first, middle and last frame, decoded."""
    chosen = chosen_classes(labels, seed)
    figure = Figure(figsize=(13, 0.5 + 0.92 * len(chosen)), layout="constrained")
    grid = figure.subplots(len(chosen), EXEMPLARS, squeeze=False)
    for row, (word, label) in zip(grid, chosen, strict=True):
        members = np.flatnonzero(labels == label)
        nearest = members[np.argsort(np.linalg.norm(h[members] - centroids[label], axis=1))][:EXEMPLARS]
        for axes, frames in zip(row, decoder.frames(nearest, 3), strict=False):
            _show(axes, frames, None)
        for axes in row[len(nearest) :]:
            axes.set_visible(False)
        row[0].set_ylabel(
            f"{word}\nclass {label}\n{len(members)} clips", rotation=0, ha="right", va="center", fontsize=9
        )
    figure.suptitle("Classes by the clips nearest to their centre (first, middle, last frame; decoded latents)")
    save(figure, path, 77)


def draw_retrieval(decoder: Decoder, h: np.ndarray, labels: np.ndarray, numbers: Mapping[str, Any], path: Path) -> None:
    """A few queries and their nearest neighbours: green edge where the class is the same, orange where not."""
    count = min(NEIGHBOURS, len(h) - 1)
    queries = np.unique(np.linspace(0, len(h) - 1, QUERIES).round().astype(int))
    indices, _ = retrieval.neighbours(h, count)
    figure = Figure(figsize=(13, 0.75 + 1.13 * len(queries)), layout="constrained")
    grid = figure.subplots(len(queries), count + 1, squeeze=False)
    for row, query in zip(grid, queries, strict=True):
        shown = np.concatenate([[query], indices[query]])
        for axes, frames, sample in zip(row, decoder.frames(shown, 2), shown, strict=True):
            same = labels[sample] == labels[query]
            _show(axes, frames, "black" if sample == query else GREEN if same else ORANGE)
    for number, axes in enumerate(grid[0]):
        axes.set_title("query" if number == 0 else f"neighbour {number}", fontsize=10)
    top = next((f"top-{k} {numbers[f'top{k}']:.2f}" for k in (5, 1, 10) if f"top{k}" in numbers), "")
    words = f"same class: {top}, by chance {numbers['chance']:.2f}"
    figure.suptitle(f"Nearest neighbours (first and last frame; green: same class, orange: another) · {words}")
    save(figure, path, 77)


# ---- the kernel ---------------------------------------------------------------------------------------------------


def draw_kernel(
    distances: tuple[np.ndarray, np.ndarray], taus: Sequence[float], numbers: Mapping[str, Any], path: Path
) -> None:
    """Distances to positives and negatives, and the logits -d / (S tau) at every temperature."""
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    grid = figure.subplots(1, len(taus) + 1)
    near, far = distances
    _sides(grid[0], near, far, "distance / mean distance", "Distances")
    for axes, tau in zip(grid[1:], taus, strict=True):
        found = numbers[f"tau_{tau:g}"]
        counted = f"{found['effective_positives']:.1f} positives,\n{found['effective_negatives']:.1f} negatives count"
        title = f"tau {tau:g}: {counted}"
        _sides(axes, -near / tau, -far / tau, "logit", title)
    grid[0].legend(frameon=False, fontsize=9)
    figure.suptitle("What the drifting kernel sees of a class (positives) and of the others (negatives)")
    save(figure, path, 84)


def _sides(axes: Axes, near: np.ndarray, far: np.ndarray, label: str, title: str) -> None:
    bins = np.linspace(min(near.min(), far.min()), max(near.max(), far.max()), 40).tolist()
    axes.hist(near, bins, density=True, color=BLUE, alpha=0.65, label="positives")
    axes.hist(far, bins, density=True, color=ORANGE, alpha=0.55, label="negatives")
    axes.set(xlabel=label, yticks=[])
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.axvline(0, color=GREY, linewidth=0.6)
