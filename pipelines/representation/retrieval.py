"""Nearest neighbours: do they share class, caption and look?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.neighbors import NearestNeighbors

from pipelines.representation.spreads import Unavailable


def neighbours(h: np.ndarray, count: int, queries: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rows and Euclidean distances [Q, count] of the samples of ``h`` [N, D] nearest to each query, nearest first.

    Exact, by brute force in blocks (scikit-learn). A query (a row number; None: all) is never its own neighbour.

    Raises:
        Unavailable: there are not more than ``count`` samples.
    """
    if len(h) <= count:
        raise Unavailable(f"{len(h)} samples, top-{count} needs more than {count}")
    rows = np.arange(len(h)) if queries is None else queries
    search = NearestNeighbors(n_neighbors=count + 1, algorithm="brute").fit(h)
    distances, indices = search.kneighbors(h[rows])
    own = indices == rows[:, None]
    own[:, -1] |= ~own.any(1)  # among more doubles than neighbours, a sample may miss itself: drop the farthest
    return indices[~own].reshape(len(rows), count), distances[~own].reshape(len(rows), count)


def chance_consistency(labels: np.ndarray) -> float:
    """sum_c p_c^2: the probability that two samples drawn at random share their class."""
    share = np.unique(labels, return_counts=True)[1] / len(labels)
    return float((share**2).sum())


def consistency(indices: np.ndarray, labels: np.ndarray, queries: np.ndarray, tops: Sequence[int]) -> dict[str, float]:
    """Do neighbours share the class? ``indices`` [Q, n] are neighbours of the rows ``queries``; ``labels`` of all [N].

    ``top{k}``: mean share of the k nearest neighbours with the query's class; ``top{k}_chance``: sum p_c^2;
    ``top{k}_std``: its standard error over queries; ``top{k}_gain`` = top{k} / chance.
    """
    chance = chance_consistency(labels)
    found = {"chance": chance}
    for k in tops:
        same = (labels[indices[:, :k]] == labels[queries, None]).mean(1)
        error = float(same.std(ddof=1) / np.sqrt(len(same)))
        found |= {f"top{k}": float(same.mean()), f"top{k}_std": error, f"top{k}_chance": chance}
        found |= {f"top{k}_gain": float(same.mean() / chance), f"top{k}_gain_std": error / chance}
    return found


def agreement_over_random(
    vectors: np.ndarray, indices: np.ndarray, queries: np.ndarray, seed: int
) -> tuple[float, float]:
    """Mean cosine of (centred) ``vectors`` [P, D] between the rows ``queries`` and their neighbours ``indices``, less
    that between a query and random other rows, and its standard error over queries.

    Chance level 0, most 1 - cos of random pairs. Centring takes away what all share, which would lift every cosine.
    """
    centred = vectors - vectors.mean(0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    asked = unit[queries][:, None]
    near = (unit[indices] * asked).sum(-1).mean(1)
    shift = np.random.default_rng(seed).integers(1, len(unit), size=indices.shape)  # never the sample itself
    others = (queries[:, None] + shift) % len(unit)
    difference = near - (unit[others] * asked).sum(-1).mean(1)
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))
