"""Two things timed in turn, A B A B …, so that a machine whose speed drifts gives the same ratio."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    """Two loops in one process, a step of one and a step of the other: both meet the same machine at every step.

    Each calls :meth:`step` with its side (0 or 1) where a step begins, and is ended by :meth:`over`.
    """

    def __init__(self) -> None:
        self.gates = (threading.Semaphore(0), threading.Semaphore(0))
        self.came = (threading.Event(), threading.Event())
        self.began = [0.0, 0.0]
        self.taken: tuple[list[float], list[float]] = ([], [])

    def step(self, side: int) -> None:
        """A step of this side begins (the one before it is over): it goes on when the other has made one."""
        if self.came[side].is_set():
            self.taken[side].append(time.process_time() - self.began[side])
            self.gates[1 - side].release()
        self.came[side].set()
        self.gates[side].acquire()
        self.began[side] = time.process_time()

    def over(self, side: int) -> None:
        """This side makes no more steps; its last one, with what ends a run, is not counted."""
        self.came[side].set()
        self.gates[1 - side].release()

    @contextmanager
    def beside(self, peer: Callable[[], object]) -> Iterator[None]:
        """Inside, side 0 is run; ``peer``, side 1, runs in a thread of its own."""

        def begin() -> None:
            for came in self.came:
                came.wait()
            self.gates[0].release()

        threads = [threading.Thread(target=one, daemon=True) for one in (peer, begin)]
        for thread in threads:
            thread.start()
        yield
        for thread in threads:
            thread.join()

    def ratios(self, parts: int) -> tuple[float, ...]:
        """Processor time of side 0 over that of side 1, in so many equal parts of the run, the first step left out."""
        ours, peer = (one[1:] for one in self.taken)
        size = min(len(ours), len(peer)) // parts
        cuts = [slice(part * size, (part + 1) * size) for part in range(parts)]
        return tuple(statistics.median(ours[cut]) / statistics.median(peer[cut]) for cut in cuts)
