"""The kernel of the drifting loss between classes: at which temperature does it see which neighbours?

For queries x of a class, positives are other samples of the class and negatives are samples of other classes (before
there is a generator, these stand for its samples). Distances are divided by their mean S, as the loss does:
logit = -d / (S tau). A = sqrt(softmax over columns * softmax over rows), columns = [positives | negatives]
(seed C, C.6).
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
    renormalised; ``mass_positive``, ``mass_negative``: mean row sums of A; ``floor_share``: entries of the softmax over
    the axis of x that hit the floor 1e-12.
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


Sides = list[tuple[np.ndarray, int]]
"""Per class: distances [N, P + M] divided by their mean, positives first, and P."""


def class_distances(features: np.ndarray, labels: np.ndarray, params: KernelParams, seed: int) -> Sides:
    """Distances d / S from queries to positives and negatives of every class that has two samples.

    Raises:
        Unavailable: no class has.
    """
    rng = np.random.default_rng(seed)
    found = []
    for chosen in np.unique(labels):
        queries, positives, negatives = draw(labels, int(chosen), params, rng)
        if len(queries) and len(negatives):
            distances = cdist(features[queries], features[np.concatenate([positives, negatives])])
            found.append((distances / max(distances.mean(), 1e-300), len(positives)))
    if not found:
        raise Unavailable("no class has two samples, or there is one class")
    return found


def pooled(sides: Sides) -> tuple[np.ndarray, np.ndarray]:
    """All distances to positives, and all to negatives."""
    near = np.concatenate([distances[:, :count].ravel() for distances, count in sides])
    return near, np.concatenate([distances[:, count:].ravel() for distances, count in sides])


def kernel_statistics(sides: Sides, taus: tuple[float, ...]) -> dict[str, dict[str, float]]:
    """Means over classes per temperature (``tau_0.05``), and ``distance``: quantiles of d / S on both sides.

    ``mass_ratio`` = mass_positive / mass_negative; where classes are random it is the ratio of numbers of samples.
    """
    found = {}
    for tau in taus:
        runs = [class_statistics(distances, count, tau) for distances, count in sides]
        numbers = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
        numbers["mass_ratio"] = numbers["mass_positive"] / max(numbers["mass_negative"], 1e-300)
        found[f"tau_{tau:g}"] = numbers
    named = zip(("positive", "negative"), pooled(sides), strict=True)
    found["distance"] = {f"{side}_p{q:02d}": float(np.percentile(d, q)) for side, d in named for q in (5, 50, 95)}
    return found


def kernel_with_chance(
    features: np.ndarray, labels: np.ndarray, params: KernelParams, repeats: int, seed: int
) -> dict[str, dict[str, float]]:
    """:func:`kernel_statistics`, each number with its mean and spread under permuted labels.

    Raises:
        Unavailable: no class has two samples.
    """
    found = kernel_statistics(class_distances(features, labels, params, seed), params.taus)
    rng = np.random.default_rng(seed)
    runs = [
        kernel_statistics(class_distances(features, rng.permutation(labels), params, seed), params.taus)
        for _ in range(repeats)
    ]
    for group, numbers in found.items():
        for name in list(numbers):
            values = np.array([run[group][name] for run in runs])
            numbers[f"{name}_chance"], numbers[f"{name}_chance_std"] = float(values.mean()), float(values.std(ddof=1))
    return found
