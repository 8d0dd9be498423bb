"""The kernel of the drifting loss between classes: at which temperature does it see which neighbours?

Measured in one feature phi_j of the frozen encoder at a time, as the loss does; never in h, in which classes were made.
For queries x of a class, positives are other samples of the class and negatives are samples of other classes (before
there is a generator, these stand for its samples). Distances are divided by their mean S over all classes of the
feature: logit = -d / (S tau). The kernel is the drift's own (:mod:`pipelines.flow.drift_kernel`), that of the authors'
release: A = sqrt(max(softmax over columns * softmax over rows, 1e-6)), columns = [negatives | positives].
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from scipy.spatial.distance import cdist

from pipelines import stage
from pipelines.flow.drift_statistics import kernel_numbers
from pipelines.flow.params import DriftField
from pipelines.representation.params import KernelParams
from pipelines.representation.spreads import LEFT_OUT, Found, Labellings, Unavailable, with_spreads


def field_of(taus: tuple[float, ...]) -> DriftField:
    """The authors' release, with these temperatures."""
    return DriftField(
        temperatures=taus, normalisation="both", weights="after", scale="all", floor=1e-6, correction=None
    )


def per_sample(distances: np.ndarray, num_positives: int, taus: tuple[float, ...]) -> dict[str, np.ndarray]:
    """:func:`~pipelines.flow.drift_statistics.kernel_numbers` [K, N] of every query of one class.

    ``distances``: [N, P + M], divided by S, positives first.
    """
    negatives_first = np.concatenate([distances[:, num_positives:], distances[:, :num_positives]], axis=1)
    scaled = torch.from_numpy(negatives_first)[None]
    found = kernel_numbers(scaled, distances.shape[1] - num_positives, field_of(taus))
    return {name: values[0].numpy() for name, values in found.items()}


Sides = list[tuple[np.ndarray, int]]
"""Per class: distances [N, P + M] divided by their mean over all classes, positives first, and P."""


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
    """Distances d / S from queries to positives and negatives of every class that has two samples (label -1: left
    out); S is their mean over all classes.

    Raises:
        Unavailable: no class has, or there is one class, or all samples are equal, or values are not finite.
    """
    if not np.isfinite(features).all():
        raise Unavailable("values that are not finite")
    rng = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] != LEFT_OUT]
    edges = np.flatnonzero(np.diff(labels[order], prepend=LEFT_OUT, append=LEFT_OUT))
    found = []
    for begin, end in pairwise(edges.tolist()):
        queries, positives, negatives = draw(order, begin, end, params, rng)
        if len(queries) and len(negatives):
            distances = cdist(features[queries], features[np.concatenate([positives, negatives])])
            found.append((distances, len(positives)))
    if not found:
        raise Unavailable("no class has two samples, or there is one class")
    scale = np.concatenate([distances.ravel() for distances, _ in found]).mean()
    if not scale > 0:
        raise Unavailable("all samples are equal")
    return [(distances / scale, count) for distances, count in found]


def pooled(sides: Sides) -> tuple[np.ndarray, np.ndarray]:
    """All distances to positives, and all to negatives."""
    near = np.concatenate([distances[:, :count].ravel() for distances, count in sides])
    return near, np.concatenate([distances[:, count:].ravel() for distances, count in sides])


QUANTILES = (5, 50, 95)


def kernel_statistics(sides: Sides, taus: tuple[float, ...]) -> dict[str, float]:
    """Per temperature (``tau_0.05/<name>``) the quantiles ``_p05``, ``_p50``, ``_p95`` over samples of
    :func:`per_sample`, and of all logits; ``floor_share``, their mean; ``distance/...``: quantiles of d / S on both
    sides. Where classes are random, ``mass_ratio`` is the ratio of numbers of samples."""
    found = {}
    near, far = pooled(sides)
    runs = [per_sample(distances, count, taus) for distances, count in sides]
    for place, tau in enumerate(taus):
        columns = {name: np.concatenate([run[name][place] for run in runs]) for name in runs[0]}
        found[f"tau_{tau:g}/floor_share"] = float(columns.pop("floor_share").mean())
        columns["logit"] = -np.concatenate([near, far]) / tau
        for name, values in columns.items():
            found |= {f"tau_{tau:g}/{name}_p{q:02d}": float(np.percentile(values, q)) for q in QUANTILES}
    named = (("positive", near), ("negative", far))
    return found | {f"distance/{side}_p{q:02d}": float(np.percentile(d, q)) for side, d in named for q in QUANTILES}


def kernel_with_spreads(
    features: np.ndarray, given: Labellings, params: KernelParams, seed: int
) -> dict[str, dict[str, float]]:
    """:func:`kernel_statistics` by group, each number with its chance level and spreads.

    Raises:
        Unavailable: as :func:`class_distances`.
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
