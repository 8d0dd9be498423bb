"""Exact k-means by Lloyd's iteration, streamed over the embedding and shared among processes.

Minimises sum_i min_k |h_i - c_k|^2 (Lloyd 1982) from greedy k-means++ starts (scikit-learn's, on a seeded subset where
there are many samples). Samples are read in blocks; an iteration reads those whose class may have changed.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import kmeans_plusplus

from pipelines import stage
from pipelines.representation.bounds import Assignment
from pipelines.representation.params import Kmeans
from pipelines.representation.passes import Codebook, Samples, check_count, farthest, without_empty
from pipelines.representation.ranks import Ranks

START_SAMPLES, START_PER_CLASS = 16_384, 32
"""The start is chosen among this many samples, or this many per class where that is more."""
TOLERANCE = 1e-4
"""Centres have settled when their summed squared move is below this share of the mean variance (as scikit-learn)."""


def start(samples: Samples, num_classes: int, seed: int, ranks: Ranks) -> np.ndarray:
    """Greedy k-means++ centres [K, D] (Arthur and Vassilvitskii 2007) among a seeded subset of the samples."""
    rng = np.random.default_rng(seed)
    most = max(START_SAMPLES, START_PER_CLASS * num_classes)
    rows = samples.rows
    if len(rows) > most:
        rows = np.sort(rng.choice(rows, most, replace=False))
    centres, _ = kmeans_plusplus(np.asarray(samples.h[rows], dtype=np.float32), num_classes, random_state=seed)
    return ranks.of_main(np.asarray(centres, dtype=np.float32))


def variance(samples: Samples, ranks: Ranks) -> float:
    """Mean over dimensions of the variance of the samples."""
    width = samples.h.shape[1]
    moments = np.zeros((2, width))
    for _, values in samples.blocks(ranks):
        wide = values.double()
        moments += np.stack([wide.sum(0).cpu().numpy(), wide.square().sum(0).cpu().numpy()])
    mean, square = ranks.summed(moments) / len(samples)
    return float((square - mean**2).mean())


def lloyd(samples: Samples, centres: np.ndarray, max_iterations: int, settled: float, ranks: Ranks) -> Codebook:
    """Lloyd's iteration from given centres until they move by less than ``settled`` (summed squares).

    An empty class is moved at once to a sample farthest from its own centre, so none is left empty.
    """
    classes, width = centres.shape
    assigned = Assignment(samples, classes, ranks)
    for iteration in range(max_iterations):
        changed = assigned.follow(torch.from_numpy(centres).to(ranks.device))
        packed = torch.cat([assigned.counts, assigned.sums.flatten()]).cpu().numpy()
        packed = ranks.summed(np.append(packed, changed))
        counts, sums = packed[:classes], packed[classes:-1].reshape(classes, width)
        moved = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
        empty = np.flatnonzero(counts == 0)
        if empty.size:
            spare = farthest(samples, centres, len(empty), ranks, assigned.labels)
            moved[empty[: len(spare)]] = spare
        shift = float(((moved - centres) ** 2).sum())
        centres = moved.astype(np.float32)
        stage.report(iteration + 1, max_iterations, "iterations", moved=packed[-1] / len(samples))
        if shift <= settled:
            break
    assigned.follow(torch.from_numpy(centres).to(ranks.device))
    totals = ranks.summed(np.append(assigned.counts.cpu().numpy(), assigned.error()))
    if totals[:-1].all():
        return Codebook(centres, float(totals[-1]) / len(samples))
    centres, last = without_empty(samples, centres, ranks)
    return Codebook(centres, last.inertia)


def fit(samples: Samples, num_classes: int, params: Kmeans, seed: int, ranks: Ranks) -> Codebook:
    """The best of ``restarts`` runs (smallest inertia) from different starts.

    Raises:
        StageError: there are fewer samples, or fewer different samples, than classes.
    """
    check_count(samples, num_classes)
    settled = TOLERANCE * variance(samples, ranks)
    seeds = np.random.default_rng(seed).integers(0, 2**31, params.restarts).tolist()
    runs = [
        lloyd(samples, start(samples, num_classes, number, ranks), params.max_iterations, settled, ranks)
        for number in seeds
    ]
    return min(runs, key=lambda run: run.inertia)
