"""Every number beside what it would be by chance, and its spread.

``<metric>_chance`` and ``<metric>_chance_std``: the same metric with labels permuted at random. ``<metric>_std``: its
standard deviation over subsamples drawn without replacement, times sqrt(share / (1 - share)): the delete-d jackknife,
which estimates the spread over data sets of this size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


class Unavailable(ValueError):
    """A metric is not defined on this data; the text says why."""


Metric = Callable[[np.ndarray, np.ndarray], dict[str, float]]
"""(features [N, D], labels [N]) to numbers by name; raises Unavailable."""


@dataclass
class Numbers:
    """What a block of metrics gave, and why what is missing is missing."""

    values: dict[str, float] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Repeats:
    """How chance level and spread are estimated."""

    count: int
    share: float
    seed: int


def with_chance(name: str, metric: Metric, features: np.ndarray, labels: np.ndarray, repeats: Repeats) -> Numbers:
    """A metric, its chance level under permuted labels and its spread over subsamples."""
    found = Numbers()
    try:
        found.values |= metric(features, labels)
    except Unavailable as reason:
        found.unavailable[name] = str(reason)
        return found
    rng = np.random.default_rng(repeats.seed)
    permuted = [metric(features, rng.permutation(labels)) for _ in range(repeats.count)]
    found.values |= _moments(permuted, "_chance", "_chance_std", 1.0)
    part = []
    for _ in range(repeats.count):
        rows = rng.choice(len(labels), max(2, round(repeats.share * len(labels))), replace=False)
        try:
            part.append(metric(features[rows], labels[rows]))
        except Unavailable:
            continue
    if len(part) > 1:
        found.values |= _moments(part, None, "_std", float(np.sqrt(repeats.share / (1 - repeats.share))))
    return found


def _moments(runs: list[dict[str, float]], mean: str | None, std: str, factor: float) -> dict[str, float]:
    found = {}
    for name in runs[0]:
        values = np.array([run[name] for run in runs if name in run])
        if mean is not None:
            found[f"{name}{mean}"] = float(values.mean())
        found[f"{name}{std}"] = float(values.std(ddof=1) * factor) if len(values) > 1 else 0.0
    return found
