"""Two things timed in turn, A B A B …, so that a machine whose speed drifts gives the same ratio."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
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


class Turns:
    """A loop and its peer in one thread, a step of one and a step of the other: both meet the same machine.

    The loop calls :meth:`step` where a step of its own begins; its last one, with what ends a run, is not counted.
    """

    def __init__(self, peer: Iterator[object]) -> None:
        self.peer = peer
        self.began: float | None = None
        self.taken: tuple[list[float], list[float]] = ([], [])

    def step(self) -> None:
        """The step before is over; the peer makes one, and the next begins."""
        now = time.process_time()
        if self.began is not None:
            self.taken[0].append(now - self.began)
        self.taken[1].append(cpu_seconds(lambda: next(self.peer)))
        self.began = time.process_time()

    def ratios(self, parts: int) -> tuple[float, ...]:
        """Processor time of the loop over the peer's, in so many equal parts of the run, the first step left out."""
        ours, peer = (one[1:] for one in self.taken)
        size = min(len(ours), len(peer)) // parts
        cuts = [slice(part * size, (part + 1) * size) for part in range(parts)]
        return tuple(statistics.median(ours[cut]) / statistics.median(peer[cut]) for cut in cuts)
