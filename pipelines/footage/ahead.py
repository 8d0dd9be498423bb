"""Work on the next items while the first ones are used; results come in the items' own order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    stop: threading.Event,
    held: Callable[[Item], int] = lambda _: 0,
    most_held: int = 0,
) -> Iterator[tuple[Item, Result]]:
    """Each item with ``work(item)``, in order; at most ``2 * threads`` items are open at once.

    ``held`` says how many bytes of the disk an item takes until it is used: no further one is opened while those open
    take more than ``most_held``.

    What ends the caller ends the work: ``stop`` is set, what has not begun is dropped, and ``work`` is to look at
    ``stop`` from time to time. An exception of ``work`` is raised where its item's turn is.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="cut") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                while waiting and (len(waiting) == 2 * threads or sum(held(one) for one, _ in waiting) > most_held):
                    first, result = waiting.popleft()
                    yield first, result.result()
            while waiting:
                first, result = waiting.popleft()
                yield first, result.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
