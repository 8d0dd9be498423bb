"""The kernel of the drifting loss between classes: at which temperature does it see which neighbours?

For queries x of a class, positives are other samples of the class and negatives are samples of other classes (before
there is a generator, these stand for its samples). Distances are divided by their mean S, as the loss does:
logit = -d / (S tau). A = sqrt(softmax over columns * softmax over rows), columns = [positives | negatives]
(seed C, C.6).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import softmax

from pipelines import stage
from pipelines.representation.params import KernelParams
from pipelines.representation.spreads import LEFT_OUT, Found, Labellings, Unavailable, with_spreads

ROW_FLOOR = 1e-12


def effective_neighbours(weights: np.ndarray) -> np.ndarray:
    """exp(entropy) of each row of weights [N, M], renormalised to sum 1: from 1 (one neighbour counts) to M."""
    share = weights / np.maximum(weights.sum(1, keepdims=True), 1e-300)
    safe = np.where(share > 0, share, 1.0)
    return np.exp(-(share * np.log(safe)).sum(1))


def kernel(distances: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Softmax over columns, softmax over rows and symmetric kernel A [N, M] of distances [N, M]: logit = -d / tau."""
    rows, columns = softmax(-distances / tau, axis=1), softmax(-distances / tau, axis=0)
    return rows, columns, np.sqrt(rows * np.maximum(columns, ROW_FLOOR))


def class_statistics(distances: np.ndarray, num_positives: int, tau: float) -> dict[str, float]:
    """Numbers of one class at one temperature; distances [N, P + M] (already divided by S), positives first.

    ``logit_p05/p50/p95``; ``effective_positives``, ``effective_negatives``: row softmax restricted to one side and
    renormalised; ``mass_positive``, ``mass_negative``: mean row sums of A; ``floor_share``: entries of the softmax over
    the axis of x that hit the floor 1e-12.
    """
    rows, columns, weights = kernel(distances, tau)
    quantiles = np.percentile(-distances / tau, [5, 50, 95])
    return {
        "logit_p05": float(quantiles[0]),
        "logit_p50": float(quantiles[1]),
        "logit_p95": float(quantiles[2]),
        "effective_positives": float(effective_neighbours(rows[:, :num_positives]).mean()),
        "effective_negatives": float(effective_neighbours(rows[:, num_positives:]).mean()),
        "mass_positive": float(weights[:, :num_positives].sum(1).mean()),
        "mass_negative": float(weights[:, num_positives:].sum(1).mean()),
        "floor_share": float((columns < ROW_FLOOR).mean()),
    }


Sides = list[tuple[np.ndarray, int]]
"""Per class: distances [N, P + M] divided by their mean, positives first, and P."""


def draw(
    order: np.ndarray, begin: int, end: int, params: KernelParams, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of queries, positives and negatives, all different, of the class that ``order[begin:end]`` lists.

    ``order``: rows of all samples, class by class.
    """
    members = rng.permutation(order[begin:end])
    half = min(params.queries, len(members) // 2)
    outside = len(order) - len(members)
    picked = rng.choice(outside, min(params.negatives, outside), replace=False)
    negatives = order[np.where(picked < begin, picked, picked + len(members))]
    return members[:half], members[half : half + params.positives], negatives


def class_distances(features: np.ndarray, labels: np.ndarray, params: KernelParams, seed: int) -> Sides:
    """Distances d / S from queries to positives and negatives of every class that has two samples (label -1: left out).

    Raises:
        Unavailable: no class has, or there is one class.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] != LEFT_OUT]
    edges = np.flatnonzero(np.diff(labels[order], prepend=LEFT_OUT, append=LEFT_OUT))
    found = []
    for begin, end in pairwise(edges.tolist()):
        queries, positives, negatives = draw(order, begin, end, params, rng)
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


def kernel_statistics(sides: Sides, taus: tuple[float, ...]) -> dict[str, float]:
    """Means over classes per temperature (``tau_0.05/<name>``), and ``distance/...``: quantiles of d / S on both sides.

    ``mass_ratio`` = mass_positive / mass_negative; where classes are random it is the ratio of numbers of samples.
    """
    found = {}
    for tau in taus:
        runs = [class_statistics(distances, count, tau) for distances, count in sides]
        numbers = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
        numbers["mass_ratio"] = numbers["mass_positive"] / max(numbers["mass_negative"], 1e-300)
        found |= {f"tau_{tau:g}/{name}": value for name, value in numbers.items()}
    named = zip(("positive", "negative"), pooled(sides), strict=True)
    return found | {f"distance/{side}_p{q:02d}": float(np.percentile(d, q)) for side, d in named for q in (5, 50, 95)}


def kernel_with_spreads(
    features: np.ndarray, given: Labellings, params: KernelParams, seed: int
) -> dict[str, dict[str, float]]:
    """:func:`kernel_statistics` by group, each number with its chance level and spreads.

    Raises:
        Unavailable: no class has two samples.
    """
    drawn = iter(range(seed, seed + 10_000))  # every labelling draws its own queries, positives and negatives

    def metric(labels: np.ndarray) -> Found:
        own = next(drawn)
        found = kernel_statistics(class_distances(features, labels, params, own), params.taus)
        stage.report(own - seed + 1, len(given.all()), "labellings")
        return found

    numbers = with_spreads("kernel", metric, given)
    if numbers.unavailable:
        raise Unavailable(numbers.unavailable["kernel"])
    found: dict[str, dict[str, float]] = {}
    for name, value in numbers.values.items():
        group, _, rest = name.partition("/")
        found.setdefault(group, {})[rest] = value
    return found
