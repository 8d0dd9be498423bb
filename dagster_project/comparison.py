"""Numbers of several trainings: mean and spread over seeds, and what a difference is worth.

Runs are paired by seed. The interval of a difference is Student's, with one degree of freedom less than seeds: with
three seeds it is 2.5 standard deviations wide to either side, which is what three trainings can say.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95
ALONE = "one seed: no verdict"


@dataclass(frozen=True)
class Difference:
    """Mean difference to the baseline with its interval (None where there is none), and the verdict."""

    mean: float
    low: float | None
    high: float | None
    verdict: str


def difference(baseline: Mapping[int, float], other: Mapping[int, float], better: str) -> Difference | None:
    """`other` less `baseline`, seed by seed; None where they share no seed.

    ``better`` is "higher", "lower", "near X" or something else: then the verdict says higher or lower, and judges not.
    """
    seeds = sorted(baseline.keys() & other.keys())
    if not seeds:
        return None
    plain = [other[seed] - baseline[seed] for seed in seeds]
    mean = statistics.fmean(plain)
    if len(seeds) == 1:
        return Difference(mean, None, None, ALONE)
    reach = _reach(plain)
    judged = _improvements(baseline, other, seeds, better)
    return Difference(mean, mean - reach, mean + reach, _verdict(judged if judged is not None else plain, judged))


def _improvements(
    baseline: Mapping[int, float], other: Mapping[int, float], seeds: Sequence[int], better: str
) -> list[float] | None:
    """How much better each seed got; None where nobody says which way is better."""
    if better in ("higher", "lower"):
        sign = 1.0 if better == "higher" else -1.0
        return [sign * (other[seed] - baseline[seed]) for seed in seeds]
    target = _target(better)
    if target is None:
        return None
    return [abs(baseline[seed] - target) - abs(other[seed] - target) for seed in seeds]


def _target(better: str) -> float | None:
    try:
        return float(better.removeprefix("near ")) if better.startswith("near ") else None
    except ValueError:
        return None


def _verdict(values: Sequence[float], judged: Sequence[float] | None) -> str:
    mean, reach = statistics.fmean(values), _reach(values)
    if not any(values):
        return "equal"
    if not abs(mean) > reach:  # NaN is never a finding
        return "within noise"
    if judged is None:
        return "higher" if mean > 0 else "lower"
    return "better" if mean > 0 else "worse"


def _reach(values: Sequence[float]) -> float:
    """Half the width of the interval of a mean."""
    from scipy import stats

    quantile = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def spread(values: Sequence[float]) -> str:
    """``0.532 ± 0.018``: mean and standard deviation over seeds; one value as it is, and a dash for none."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.4g}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2g}"
