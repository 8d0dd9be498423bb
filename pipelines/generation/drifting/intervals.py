"""How far a number of held-out clips would move with other clips."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SEED = 20260301
"""Of the resamples, the same for everything that is compared."""


def interval(score: Callable[[Tensor], float], count: int, resamples: int) -> tuple[float, float, float]:
    """A score of rows [N] of clips, and its 95 % interval over bootstrap resamples of them; those that do not define it
    (NaN) are left out.

    Raises:
        ValueError: the score is not defined on all of them.
    """
    value = score(torch.arange(count))
    if not math.isfinite(value):
        raise ValueError("not defined: too few clips, no difference to divide by, or values that are not finite")
    generator = torch.Generator().manual_seed(SEED)
    drawn = [score(torch.randint(count, (count,), generator=generator)) for _ in range(resamples)]
    defined = torch.tensor([one for one in drawn if math.isfinite(one)] or [value], dtype=torch.float64)
    low, high = defined.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return value, low, high


def named(name: str, found: tuple[float, float, float]) -> dict[str, float]:
    """``name``, ``name_low``, ``name_high``."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))
