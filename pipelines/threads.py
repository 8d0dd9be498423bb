"""Torch's threads on processors: how many share one product, and what goes side by side on a thread each instead.

Threads that share a small product wait for each other longer than they work, and the wait is spent turning idle.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_AT_ONCE = 8
"""Pieces of work at the same time; beyond it, memory costs more than threads that share one lose."""
PIXELS_A_THREAD = 1 << 19
"""Pixels of a micro-batch for each thread that trains a convolutional network on it. Of half as many, a second thread
takes 1.35 times the processor time to save a third to a fifth of the wall time; of twice as many 1.2 times for 40 %."""


@contextmanager
def threads_for(pixels: int) -> Iterator[None]:
    """Inside, torch uses as many threads as so many pixels keep busy, and no more than it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, pixels // PIXELS_A_THREAD)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def at_once(device: torch.device) -> int:
    """Pieces of work that go side by side: one on an accelerator, one a thread of torch on processors."""
    return min(MOST_AT_ONCE, torch.get_num_threads()) if device.type == "cpu" else 1


@contextmanager
def threads_apart(number: int) -> Iterator[ThreadPoolExecutor]:
    """``number`` threads that share torch's threads among them; afterwards torch has what it had."""
    before = torch.get_num_threads()
    each = max(1, before // number)
    pool = ThreadPoolExecutor(number, "apart", torch.set_num_threads, (each,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _alone() -> None:
    """One thread of torch for this thread from now on: until it has asked, it gets what anybody has set last."""
    torch.set_num_threads(1)
    torch.get_num_threads()


@contextmanager
def readers(number: int) -> Iterator[ThreadPoolExecutor]:
    """``number`` threads in which torch uses one, beside a caller whose threads stay as they are.

    With as many as the caller's, each would have a team of its own, turning idle on cores that the caller needs.
    """
    before, met = torch.get_num_threads(), threading.Barrier(number + 1)
    with ThreadPoolExecutor(number, "reader", _alone) as pool:
        for _ in range(number):
            pool.submit(met.wait)
        met.wait()  # all have begun
        torch.set_num_threads(before)  # MKL's number is one of the whole process
        yield pool


def side_by_side(
    call: Callable[[Item], Result], items: Iterable[Item], number: int
) -> Generator[tuple[Item, Result], None, None]:
    """Every item with what ``call`` gives of it, in order; ``number`` calls at a time, in threads of their own.

    What torch keeps for each thread, the call sets itself: gradients off, autocast.
    """
    with threads_apart(number) as pool:
        started: deque[tuple[Item, Future[Result]]] = deque()
        for item in items:
            started.append((item, pool.submit(call, item)))
            if len(started) > number:
                yield started[0][0], started.popleft()[1].result()
        while started:
            yield started[0][0], started.popleft()[1].result()
