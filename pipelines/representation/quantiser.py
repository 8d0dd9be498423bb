"""K-means codebooks: fitted with k-means++ starts, no class left empty, assignments with distance and margin."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from pipelines.stage import StageError

BLOCK = 4096


@dataclass(frozen=True)
class Codebook:
    """Class centres [K, D] and the mean squared distance of train samples to their centre."""

    centroids: np.ndarray
    inertia: float


@dataclass(frozen=True)
class Assignments:
    """Per sample: class, distance to its centre, and how much farther the second nearest centre is."""

    labels: np.ndarray
    distance: np.ndarray
    margin: np.ndarray


def fit(h: np.ndarray, num_classes: int, seed: int, restarts: int, max_iterations: int) -> Codebook:
    """Lloyd's k-means (scikit-learn, greedy k-means++ starts), the best of some restarts.

    An empty class is moved to the sample farthest from its centre, so none stays empty.

    Raises:
        StageError: there are fewer samples, or fewer different samples, than classes.
    """
    if num_classes > len(h):
        raise StageError(
            f"num_classes {num_classes} is more than the {len(h)} train samples; set it to {len(h)} or less."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # says what the check below says as an error
        model: Any = KMeans(num_classes, max_iter=max_iterations, random_state=seed)
        model.set_params(n_init=restarts).fit(h)
    filled = len(np.unique(model.labels_))
    if filled < num_classes:
        raise StageError(
            f"num_classes {num_classes}: the {len(h)} train samples have only {filled} different embeddings. "
            f"Set num_classes to {filled} or less, or give the embedding more parts."
        )
    return Codebook(model.cluster_centers_.astype(np.float32), float(model.inertia_) / len(h))


def assign(codebook: Codebook, h: np.ndarray) -> Assignments:
    """Nearest centre of every sample [N, D]; in blocks, so memory is O(K)."""
    labels, nearest, margins = [], [], []
    centres = codebook.centroids.astype(np.float64)
    for start in range(0, len(h), BLOCK):
        part = h[start : start + BLOCK].astype(np.float64)
        squared = (part**2).sum(1)[:, None] - 2 * part @ centres.T + (centres**2).sum(1)
        distances = np.sqrt(np.maximum(squared, 0))
        two = np.partition(distances, 1, axis=1)[:, :2]
        labels.append(distances.argmin(1))
        nearest.append(two[:, 0])
        margins.append(two[:, 1] - two[:, 0])
    return Assignments(np.concatenate(labels), np.concatenate(nearest), np.concatenate(margins))
