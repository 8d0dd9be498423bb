"""Nearest neighbours: do they share class, caption and look?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.neighbors import NearestNeighbors

from pipelines.representation.chance import Unavailable


def neighbours(features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and Euclidean distances [N, count] of the nearest other samples, nearest first.

    Raises:
        Unavailable: there are not more than ``count`` samples.
    """
    if len(features) <= count:
        raise Unavailable(f"{len(features)} samples, top-{count} needs more than {count}")
    distances, indices = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(features).kneighbors()
    return indices, distances  # without arguments a sample is not its own neighbour


def chance_consistency(labels: np.ndarray) -> float:
    """sum_c p_c^2: the probability that two samples drawn at random share their class."""
    share = np.unique(labels, return_counts=True)[1] / len(labels)
    return float((share**2).sum())


def consistency(indices: np.ndarray, labels: np.ndarray, tops: Sequence[int]) -> dict[str, float]:
    """``top{k}``: mean share of the k nearest neighbours with the query's class; ``top{k}_std``: its standard error
    over queries; ``chance``: sum p_c^2; ``top{k}_gain`` = top{k} / chance."""
    chance = chance_consistency(labels)
    found = {"chance": chance}
    for k in tops:
        same = (labels[indices[:, :k]] == labels[:, None]).mean(1)
        found[f"top{k}"] = float(same.mean())
        found[f"top{k}_std"] = float(same.std(ddof=1) / np.sqrt(len(same)))
        found[f"top{k}_gain"] = float(same.mean() / chance)
    return found


def agreement_over_random(vectors: np.ndarray, indices: np.ndarray, seed: int) -> tuple[float, float]:
    """Mean cosine of (centred) ``vectors`` between neighbours less that between random pairs, and its standard error.

    Chance level 0. Centring takes away what all samples share, which would otherwise lift every cosine towards 1.
    """
    centred = vectors - vectors.mean(0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    near = (unit[indices] * unit[:, None]).sum(-1).mean(1)
    rng = np.random.default_rng(seed)
    shift = rng.integers(1, len(unit), size=indices.shape)  # never the sample itself
    others = (np.arange(len(unit))[:, None] + shift) % len(unit)
    difference = near - (unit[others] * unit[:, None]).sum(-1).mean(1)
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))
