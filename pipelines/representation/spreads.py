"""Every number beside what it would be by chance, and its spread over subsamples and seeds.

A metric of classes is computed for several labellings of the same samples, and ``<metric>`` gets

- ``_chance``, ``_chance_std``: mean and spread with the labels permuted at random;
- ``_std``: standard deviation over subsamples drawn without replacement, times sqrt(share / (1 - share)): the delete-d
  jackknife (Shao and Wu 1989), which estimates the spread over data sets of this size;
- ``_seed_std``: standard deviation over codebooks fitted from other seeds on the same embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

LEFT_OUT = -1
"""Label of a sample that a subsample does not have."""


class Unavailable(ValueError):
    """A metric is not defined on this data; the text says why."""


Found = dict[str, float]
Metric = Callable[[np.ndarray], Found]
"""Labels [N] (-1: left out) to numbers by name; raises Unavailable."""


@dataclass
class Numbers:
    """What a block of metrics gave, and why what is missing is missing."""

    values: dict[str, float] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Labellings:
    """The classes [N] under study, and the labellings they are compared with."""

    classes: np.ndarray
    permuted: Sequence[np.ndarray]
    subsamples: Sequence[np.ndarray]
    seeds: Sequence[np.ndarray]
    jackknife: float

    def all(self) -> list[np.ndarray]:
        """The classes, then permuted ones, subsamples, seeds."""
        return [self.classes, *self.permuted, *self.subsamples, *self.seeds]

    def kept(self) -> list[np.ndarray]:
        """Row numbers of every subsample."""
        return [np.flatnonzero(labels != LEFT_OUT) for labels in self.subsamples]


def labellings(
    classes: np.ndarray, repeats: int, share: float, seed: int, seeds: Sequence[np.ndarray] = ()
) -> Labellings:
    """``repeats`` permutations and subsamples of a labelling, drawn from ``seed``."""
    rng = np.random.default_rng(seed)
    permuted = [rng.permutation(classes) for _ in range(repeats)]
    subsamples = []
    for _ in range(repeats):
        labels = np.full_like(classes, LEFT_OUT)
        rows = rng.choice(len(classes), max(2, round(share * len(classes))), replace=False)
        labels[rows] = classes[rows]
        subsamples.append(labels)
    return Labellings(classes, permuted, subsamples, seeds, float(np.sqrt(share / (1 - share))))


def gathered(name: str, runs: Sequence[Found | Unavailable], given: Labellings) -> Numbers:
    """Results for :meth:`Labellings.all` to numbers with chance level and spreads, or to a reason."""
    first, numbers = runs[0], Numbers()
    if isinstance(first, Unavailable):
        numbers.unavailable[name] = str(first)
        return numbers
    numbers.values |= first
    rest = iter(runs[1:])
    for kind, count in (("_chance", len(given.permuted)), ("", len(given.subsamples)), ("_seed", len(given.seeds))):
        part = [run for run in (next(rest) for _ in range(count)) if not isinstance(run, Unavailable)]
        factor = given.jackknife if kind == "" else 1.0
        for key in first:
            values = np.array([run[key] for run in part if key in run])
            if kind == "_chance" and len(values):
                numbers.values[f"{key}_chance"] = float(values.mean())
            if len(values) > 1:
                numbers.values[f"{key}{kind}_std"] = float(values.std(ddof=1) * factor)
    return numbers


def with_spreads(name: str, metric: Metric, given: Labellings) -> Numbers:
    """A metric of the classes with its chance level and spreads."""
    runs: list[Found | Unavailable] = []
    for labels in given.all():
        try:
            runs.append(metric(labels))
        except Unavailable as reason:
            runs.append(reason)
    return gathered(name, runs, given)


def over_runs(value: Mapping[str, float], runs: Sequence[Mapping[str, float]], suffix: str) -> Found:
    """``<metric>_<suffix>``: standard deviation of each number of ``value`` over some runs of it."""
    return {f"{key}{suffix}": float(np.std([run[key] for run in runs], ddof=1)) for key in value if len(runs) > 1}
