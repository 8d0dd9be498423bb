"""The kernel of the drifting loss between classes: at which temperature does it see which neighbours?

For queries x of a class, positives are other samples of the class and negatives are samples of other classes (before
there is a generator, these stand for its samples). Distances are divided by their mean S, as the loss does:
logit = -d / (S tau). A = sqrt(softmax over columns * softmax over rows), columns = [positives | negatives] (seed C, C.6).
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import softmax

from pipelines.representation.chance import Unavailable
from pipelines.representation.params import KernelParams

ROW_FLOOR = 1e-12


def effective_neighbours(weights: np.ndarray) -> np.ndarray:
    """exp(entropy) of each row of weights [N, M], renormalised to sum 1: from 1 (one neighbour counts) to M."""
    share = weights / np.maximum(weights.sum(1, keepdims=True), 1e-300)
    safe = np.where(share > 0, share, 1.0)
    return np.exp(-(share * np.log(safe)).sum(1))


def kernel(distances: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """Row softmax and symmetric kernel A [N, M] of distances [N, M]: logit = -d / tau."""
    rows = softmax(-distances / tau, axis=1)
    columns = np.maximum(softmax(-distances / tau, axis=0), ROW_FLOOR)
    return rows, np.sqrt(rows * columns)


def class_statistics(distances: np.ndarray, num_positives: int, tau: float) -> dict[str, float]:
    """Numbers of one class at one temperature; distances [N, P + M] (already divided by S), positives first.

    ``logit_p05/p50/p95``; ``effective_positives``, ``effective_negatives``: row softmax restricted to one side and
    renormalised; ``mass_positive``, ``mass_negative``: mean row sums of A; ``floor_share``: entries of the softmax over the
    axis of x that hit the floor 1e-12.
    """
    rows, weights = kernel(distances, tau)
    quantiles = np.percentile(-distances / tau, [5, 50, 95])
    return {
        "logit_p05": float(quantiles[0]),
        "logit_p50": float(quantiles[1]),
        "logit_p95": float(quantiles[2]),
        "effective_positives": float(effective_neighbours(rows[:, :num_positives]).mean()),
        "effective_negatives": float(effective_neighbours(rows[:, num_positives:]).mean()),
        "mass_positive": float(weights[:, :num_positives].sum(1).mean()),
        "mass_negative": float(weights[:, num_positives:].sum(1).mean()),
        "floor_share": float((softmax(-distances / tau, axis=0) < ROW_FLOOR).mean()),
    }


def draw(labels: np.ndarray, chosen: int, params: KernelParams, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of queries, positives and negatives of a class, all different."""
    members = rng.permutation(np.flatnonzero(labels == chosen))
    others = rng.permutation(np.flatnonzero(labels != chosen))
    half = min(params.queries, len(members) // 2)
    return [members[:half], members[half : half + params.positives], others[: params.negatives]]


def kernel_statistics(
    features: np.ndarray, labels: np.ndarray, params: KernelParams, seed: int
) -> dict[str, dict[str, float]]:
    """Means over classes, per temperature (``tau_0.05``), and ``distance``: quantiles of d / S.

    ``mass_ratio`` is mass_positive / mass_negative with equal numbers on both sides where the class allows; random
    classes give about num_positives / num_negatives.

    Raises:
        Unavailable: no class has two samples.
    """
    rng = np.random.default_rng(seed)
    per_tau: dict[str, list[dict[str, float]]] = {f"tau_{tau:g}": [] for tau in params.taus}
    near, far = [], []
    for chosen in np.unique(labels):
        queries, positives, negatives = draw(labels, int(chosen), params, rng)
        if not len(queries) or not len(negatives):
            continue
        distances = cdist(features[queries], features[np.concatenate([positives, negatives])])
        distances = distances / max(distances.mean(), 1e-300)
        near.append(distances[:, : len(positives)].ravel())
        far.append(distances[:, len(positives) :].ravel())
        for tau in params.taus:
            per_tau[f"tau_{tau:g}"].append(class_statistics(distances, len(positives), tau))
    if not near:
        raise Unavailable("no class has two samples")
    found = {
        name: {key: float(np.mean([run[key] for run in runs])) for key in runs[0]} for name, runs in per_tau.items()
    }
    for numbers in found.values():
        numbers["mass_ratio"] = numbers["mass_positive"] / max(numbers["mass_negative"], 1e-300)
    sides = (("positive", np.concatenate(near)), ("negative", np.concatenate(far)))
    found["distance"] = {f"{side}_p{q:02d}": float(np.percentile(d, q)) for side, d in sides for q in (5, 50, 95)}
    return found
