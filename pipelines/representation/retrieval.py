"""Nearest neighbours: do they share class, caption and look?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.neighbors import NearestNeighbors

from pipelines.representation.spreads import Unavailable


def neighbours(
    h: np.ndarray, count: int, queries: np.ndarray | None = None, among: np.ndarray | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and Euclidean distances [Q, count] of the samples of ``h`` [N, D] nearest to each query, nearest first.

    Exact, by brute force in blocks (scikit-learn). A query (a row number; None: all) is never its own neighbour.
    ``among``: rows that may be neighbours (None: all). They are searched in an order drawn from ``seed``, so that
    equal distances (doubles, equal prompts) are taken at random and not in the order of the files.

    Raises:
        Unavailable: there are not more than ``count`` samples, or values that are not finite.
    """
    rows = np.arange(len(h)) if queries is None else queries
    candidates = np.random.default_rng(seed).permutation(np.arange(len(h)) if among is None else among)
    if len(candidates) <= count:
        raise Unavailable(f"{len(candidates)} samples, top-{count} needs more than {count}")
    if not len(rows):
        raise Unavailable("no held-out samples, which are the queries")
    values, asked = np.asarray(h[candidates]), np.asarray(h[rows])
    broken = int((~np.isfinite(values).all(1)).sum() + (~np.isfinite(asked).all(1)).sum())
    if broken:
        raise Unavailable(f"{broken} samples have values that are not finite")
    search = NearestNeighbors(n_neighbors=count + 1, algorithm="brute").fit(values)
    distances, places = search.kneighbors(asked)
    indices = candidates[places]
    own = indices == rows[:, None]
    own[:, -1] |= ~own.any(1)  # where a query is not among the candidates, or missed among doubles: drop the farthest
    return indices[~own].reshape(len(rows), count), distances[~own].reshape(len(rows), count)


def chance_consistency(labels: np.ndarray, others: np.ndarray | None = None) -> float:
    """sum_c p_c q_c: the probability that a sample of each of two sets (one set twice: sum p_c^2) share their class.

    Raises:
        Unavailable: there is no sample.
    """
    if not len(labels) or (others is not None and not len(others)):
        raise Unavailable("no samples")
    size = int(labels.max()) + 1 if others is None else int(max(labels.max(), others.max())) + 1
    first = np.bincount(labels, minlength=size) / len(labels)
    second = first if others is None else np.bincount(others, minlength=size) / len(others)
    return float(first @ second)


def consistency(
    indices: np.ndarray, labels: np.ndarray, queries: np.ndarray, tops: Sequence[int], among: np.ndarray | None = None
) -> dict[str, float]:
    """Do neighbours share the class? ``indices`` [Q, n] are neighbours of the rows ``queries`` (found ``among`` some
    rows); ``labels`` of all [N].

    ``top{k}``: mean share of the k nearest neighbours with the query's class; ``top{k}_chance``: that of random rows;
    ``top{k}_std``: its standard error over queries; ``top{k}_gain`` = top{k} / chance.

    Raises:
        Unavailable: all samples are of one class, so that every neighbour shares it, or there are not two queries.
    """
    if len(np.unique(labels)) < 2:
        raise Unavailable("all samples are of one class")
    if len(queries) < 2:
        raise Unavailable(f"{len(queries)} queries; a standard error needs two")
    chance = chance_consistency(labels) if among is None else chance_consistency(labels[queries], labels[among])
    found = {"chance": chance}
    for k in tops:
        same = (labels[indices[:, :k]] == labels[queries, None]).mean(1)
        error = float(same.std(ddof=1) / np.sqrt(len(same)))
        found |= {f"top{k}": float(same.mean()), f"top{k}_std": error, f"top{k}_chance": chance}
        if chance > 0:
            found |= {f"top{k}_gain": float(same.mean() / chance), f"top{k}_gain_std": error / chance}
    return found


def agreement_over_random(
    vectors: np.ndarray, indices: np.ndarray, queries: np.ndarray, seed: int
) -> tuple[float, float]:
    """Mean cosine of (centred) ``vectors`` [P, D] between the rows ``queries`` and their neighbours ``indices``, less
    that between a query and random other rows, and its standard error over queries.

    Chance level 0, most 1 - cos of random pairs. Centring takes away what all share, which would lift every cosine.

    Raises:
        Unavailable: the vectors are all equal, or not finite; there are not two of them, or not two queries.
    """
    if min(len(vectors), len(queries)) < 2:
        raise Unavailable(f"{len(vectors)} samples, {len(queries)} queries; two of each are needed")
    if not np.isfinite(vectors).all() or (vectors == vectors[0]).all():
        raise Unavailable("the vectors are all equal, or not finite")
    centred = vectors - vectors.mean(0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    asked = unit[queries][:, None]
    near = (unit[indices] * asked).sum(-1).mean(1)
    shift = np.random.default_rng(seed).integers(1, len(unit), size=indices.shape)  # never the sample itself
    others = (queries[:, None] + shift) % len(unit)
    difference = near - (unit[others] * asked).sum(-1).mean(1)
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))
