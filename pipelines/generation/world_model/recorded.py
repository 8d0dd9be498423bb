"""Numbers of rollouts as they are recorded: by quarter, with percentile bootstraps over clips as intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

QUARTERS, LEVEL = 4, 0.95


def quarters(count: int) -> Iterator[tuple[str, np.ndarray]]:
    """``q1`` to ``q4``, and which of ``count`` things in a row are of it; a quarter without any is left out."""
    for number, part in enumerate(np.array_split(np.arange(count), QUARTERS), 1):
        if len(part):
            yield f"q{number}", part


@dataclass
class Measured:
    """Numbers by name, those that are undefined with the reason, and what is drawn."""

    count: int = 0
    """Clips that are rolled out."""
    numbers: dict[str, float] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    rollout: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1, 1, 3), np.uint8))
    ways: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1, 1, 3), np.uint8))
    ways_named: list[str] = field(default_factory=list)

    def interval(self, name: str, per_clip: Tensor, resamples: int) -> None:
        """The mean over clips with its interval; one clip has no interval."""
        values = per_clip.double().numpy()
        self.numbers[name] = float(values.mean())
        if len(values) > 1:
            drawn = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
            self._bounds(name, values[drawn].mean(1))

    def by_quarter(self, name: str, per_frame: Tensor, resamples: int) -> None:
        """Means of [N, T] in quarters of the frames, with their intervals over clips."""
        for quarter, part in quarters(per_frame.shape[1]):
            self.interval(f"{name}/{quarter}", per_frame[:, part].double().mean(1), resamples)

    def ratio(self, name: str, above: Tensor, below: Tensor, resamples: int) -> None:
        """Sum of [N, …] over another's, with its interval over clips; undefined where nothing is below."""
        over, under = (values.flatten(1).double().sum(1).numpy() for values in (above, below))
        if not under.sum() > 0:
            self.unavailable[name] = "nothing moved there, or the rollout is too short"
            return
        self.numbers[name] = float(over.sum() / under.sum())
        if len(over) > 1:
            drawn = np.random.default_rng(0).integers(len(over), size=(resamples, len(over)))
            shares = over[drawn].sum(1) / np.maximum(under[drawn].sum(1), np.finfo(float).tiny)
            self._bounds(name, shares)

    def _bounds(self, name: str, drawn: np.ndarray) -> None:
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        self.numbers |= {f"{name}_low": float(low), f"{name}_high": float(high)}
