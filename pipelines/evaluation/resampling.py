"""How far a number would move with other clips: bootstrap over prompts, the same draws for everything compared.

A resample counts how often each prompt is drawn (Efron, 1979); all samples of a prompt share its count, and so do the
systems that are compared, so that a difference is taken on equal prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

LEVEL = 0.95
"""Of every interval."""
Better = Literal["higher", "lower", "near 1"]


@dataclass(frozen=True)
class Estimate:
    """A number, and its values [R] in the resamples: NaN where one (of very few clips) does not define it."""

    value: float
    draws: Tensor

    @property
    def _defined(self) -> Tensor:
        found = self.draws[self.draws.isfinite()]
        return found if len(found) > 1 else torch.full((2,), self.value, dtype=torch.float64)

    @property
    def low(self) -> float:
        """Lower end of the interval (percentile bootstrap)."""
        return float(torch.quantile(self._defined, (1 - LEVEL) / 2))

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return float(torch.quantile(self._defined, (1 + LEVEL) / 2))

    def numbers(self, name: str) -> dict[str, float]:
        """The number, its standard deviation over resamples and its interval, as metrics."""
        return {
            name: self.value,
            f"{name}_spread": float(self._defined.std()),
            f"{name}_low": self.low,
            f"{name}_high": self.high,
        }


@dataclass(frozen=True)
class Resamples:
    """Counts [R, N] of N samples: rows are resamples."""

    counts: Tensor
    copies: int = 1

    @classmethod
    def of(cls, num_prompts: int, copies: int, resamples: int, seed: int) -> Resamples:
        """Of ``copies`` samples per prompt, all prompts of the first copy first."""
        draw = torch.Generator().manual_seed(seed)
        rows = torch.randint(num_prompts, (resamples, num_prompts), generator=draw)
        counts = torch.zeros(resamples, num_prompts, dtype=torch.float64)
        counts.scatter_add_(1, rows, torch.ones_like(rows, dtype=torch.float64))
        return cls(counts.repeat(1, copies), copies)

    def estimate(self, scores: Callable[[Tensor], Tensor]) -> Estimate:
        """Of scores [R] of weights [R, N], NaN where one is not defined: with all weights 1, and in every resample.

        Raises:
            ValueError: as ``scores`` does with all weights 1; resamples that it refuses are left undefined.
        """
        return _estimated(scores, (self,))

    def estimate_beside(self, other: Resamples, scores: Callable[[Tensor, Tensor], Tensor]) -> Estimate:
        """Likewise of scores of these weights [R, N] and the other's [R, M]: their r-th resamples go together.

        Raises:
            ValueError: as ``scores`` does with all weights 1, or the two have different numbers of resamples.
        """
        return _estimated(scores, (self, other))

    def mean(self, values: Tensor) -> Estimate:
        """Of the mean of values [N]."""
        values = values.double()
        return Estimate(float(values.mean()), self.counts @ values / self.counts.sum(1))


def _estimated(scores: Callable[..., Tensor], sides: Sequence[Resamples]) -> Estimate:
    if len({len(side.counts) for side in sides}) != 1:
        raise ValueError("two sides that are compared have equally many resamples")
    value = scores(*(torch.ones(1, side.counts.shape[1], dtype=torch.float64) for side in sides))
    try:
        draws = scores(*(side.counts for side in sides))
    except ValueError:
        draws = torch.full((len(sides[0].counts),), torch.nan, dtype=torch.float64)
    return Estimate(float(value), draws)


RESOLVED = 0.01
"""Of the narrower 95 % interval of two values, the difference that a comparison of them can make anything of."""


def compared(one: Estimate, other: Estimate, better: Better) -> dict[str, Any]:
    """``one`` against ``other``: difference, its interval over equal resamples, and "better", "worse", "within noise".

    For a target of 1 the distances from it on a logarithmic scale are compared. A resample on the other side of 1 than
    the value counts as nearer than 1 itself: else what is noise around 1 would always lie away from it, and be worse
    than real clips, which have 1 exactly. Two that are equal but for rounding differ by next to nothing in every
    resample: what is below :data:`RESOLVED` of the interval of either one is no difference, however sure it is.
    """
    if better == "near 1":
        sizes = [_from_one(estimate) for estimate in (one, other)]
    else:
        sizes = [(torch.tensor(estimate.value), estimate.draws) for estimate in (one, other)]
    difference = float(sizes[0][0] - sizes[1][0])
    moved = Estimate(difference, sizes[0][1] - sizes[1][1])
    sign = 1.0 if better == "higher" else -1.0
    low, high = sorted((sign * moved.low, sign * moved.high))
    widths = (own.high - own.low for own in (Estimate(float(value), draws) for value, draws in sizes))
    is_seen = abs(difference) > RESOLVED * min(widths)
    verdict = "better" if low > 0 and is_seen else "worse" if high < 0 and is_seen else "within noise"
    return {"difference": difference, "low": moved.low, "high": moved.high, "verdict": verdict}


def _from_one(estimate: Estimate) -> tuple[Tensor, Tensor]:
    """Distance of the value from 1 on a logarithmic scale, and of the resamples on the side of the value."""
    value, draws = (
        torch.as_tensor(size, dtype=torch.float64).clamp(min=1e-6).log() for size in (estimate.value, estimate.draws)
    )
    return value.abs(), value.sign() * draws


def all_compared(
    estimates: Mapping[str, Mapping[str, Estimate]], better: Mapping[str, Better]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Every pair of systems once, by ``<one> against <other>`` and metric."""
    names = list(estimates)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            shared = [name for name in better if name in estimates[one] and name in estimates[other]]
            found[f"{one} against {other}"] = {
                name: compared(estimates[one][name], estimates[other][name], better[name]) for name in shared
            }
    return found
