"""From an embedding to classes: a codebook fitted by k-means or as a VQ layer, and every sample's nearest centre."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipelines.representation import kmeans, vq
from pipelines.representation.params import Kmeans, Vq
from pipelines.representation.passes import BLOCK, Codebook, Samples, scores
from pipelines.representation.ranks import Ranks


@dataclass(frozen=True)
class Assignments:
    """Per sample: class, distance to its centre, and how much farther the second nearest centre is."""

    labels: np.ndarray
    distance: np.ndarray
    margin: np.ndarray


def fit(samples: Samples, num_classes: int, params: Kmeans | Vq, seed: int, ranks: Ranks) -> Codebook:
    """A codebook without empty classes, by the quantiser that ``params`` describe.

    Raises:
        StageError: there are fewer samples, or fewer different samples, than classes.
    """
    if isinstance(params, Kmeans):
        return kmeans.fit(samples, num_classes, params, seed, ranks)
    return vq.fit(samples, num_classes, params, seed, ranks)


def assign(codebook: Codebook, h: np.ndarray) -> Assignments:
    """Nearest centre of every sample [N, D], in blocks; distances are norms of float64 differences.

    A codebook of one class has margin 0.
    """
    centres = torch.from_numpy(np.asarray(codebook.centroids, dtype=np.float32))
    exact = centres.double()
    labels, distances, margins = [], [], []
    for start in range(0, len(h), BLOCK):
        values = torch.from_numpy(np.array(h[start : start + BLOCK], dtype=np.float32))
        most = min(2, len(centres))
        two = torch.cat([found.topk(most, 1, largest=False).indices for found in scores(values, centres)])
        apart = (values.double()[:, None] - exact[two]).norm(dim=2)
        order = apart.argsort(dim=1, stable=True)
        apart, two = apart.gather(1, order), two.gather(1, order)
        labels.append(two[:, 0])
        distances.append(apart[:, 0])
        margins.append(apart[:, -1] - apart[:, 0])
    return Assignments(*(torch.cat(parts).numpy() for parts in (labels, distances, margins)))
