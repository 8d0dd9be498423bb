"""Two things timed in turn, A B A B …, so that a machine whose speed drifts gives the same ratio."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One ratio, with the spread over its rounds and what it is held to."""

    name: str
    ours: str
    peer: str
    unit: str
    ratios: tuple[float, ...]
    target: str

    @property
    def median(self) -> float:
        """The ratio to quote."""
        return statistics.median(self.ratios)

    def __str__(self) -> str:
        spread = f"{min(self.ratios):.3g} to {max(self.ratios):.3g} in {len(self.ratios)} rounds"
        return f"{self.name}: {self.median:.3g} {self.unit} ({spread}), {self.ours} against {self.peer}; {self.target}"


def seconds(action: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def cpu_seconds(action: Callable[[], object]) -> float:
    """Processor seconds of one call in this process, all threads: what a shared machine does not disturb much."""
    began = time.process_time()
    action()
    return time.process_time() - began


def ratios(
    ours: Callable[[], object],
    peer: Callable[[], object],
    rounds: int,
    clock: Callable[[Callable[[], object]], float] = cpu_seconds,
) -> tuple[float, ...]:
    """Time of ours over time of the peer, pair by pair, after one warm-up of each."""
    ours()
    peer()
    return tuple(clock(ours) / clock(peer) for _ in range(rounds))
