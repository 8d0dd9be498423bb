"""A bounded part of many rows, drawn by a seed: what is measured on when a split has more than a measurement needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def subset(rows: Sequence[int], most: int, seed: int) -> list[int]:
    """The rows as they are where there are at most ``most``, else so many of them in their order, drawn by the seed."""
    if len(rows) <= most:
        return list(rows)
    chosen = np.random.default_rng(seed).choice(len(rows), most, replace=False)
    return [rows[place] for place in np.sort(chosen).tolist()]
