"""How far apart classes are: distances within and between, silhouette, Davies-Bouldin, Calinski-Harabasz."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score

from pipelines.representation.chance import Unavailable

BLOCK = 1024


def intra_inter(features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mean Euclidean distance over pairs of samples with equal, and with different, labels; no self pairs.

    intra = mean_{i != j, y_i = y_j} |h_i - h_j|,  inter = mean_{y_i != y_j} |h_i - h_j|.  In blocks: O(block N) memory.

    Raises:
        Unavailable: there is no pair of one of the kinds.
    """
    sums, counts = np.zeros(2), np.zeros(2)
    for start in range(0, len(features), BLOCK):
        distances = cdist(features[start : start + BLOCK], features)
        same = labels[start : start + BLOCK, None] == labels[None]
        sums += distances[same].sum(), distances[~same].sum()  # a self pair adds distance 0
        counts += same.sum() - len(distances), (~same).sum()
    if not counts.all():
        raise Unavailable("no pair of samples in the same class" if counts[1] else "all samples are in one class")
    return float(sums[0] / counts[0]), float(sums[1] / counts[1])


def separation(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Numbers of separation in the space of ``features`` [N, D] with classes ``labels`` [N].

    ``intra_mean``, ``inter_mean``, ``intra_inter_ratio`` (small is good); ``silhouette``: mean of (b - a) / max(a, b),
    a the mean distance to the own class, b to the nearest other one, 0 for a class of one (Rousseeuw 1987);
    ``davies_bouldin``: mean over classes of max_j (s_i + s_j) / d_ij, small is good (1979); ``calinski_harabasz``:
    variance between over variance within, each per degree of freedom (1974).

    Raises:
        Unavailable: fewer than two classes, or no class with two samples.
    """
    classes = len(np.unique(labels))
    if not 2 <= classes < len(labels):
        raise Unavailable(f"{classes} classes among {len(labels)} samples; needs 2 to N - 1")
    intra, inter = intra_inter(features, labels)
    return {
        "intra_mean": intra,
        "inter_mean": inter,
        "intra_inter_ratio": intra / inter,
        "silhouette": float(silhouette_score(features, labels)),
        "davies_bouldin": float(davies_bouldin_score(features, labels)),
        "calinski_harabasz": float(calinski_harabasz_score(features, labels)),
    }
