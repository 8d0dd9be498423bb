"""The autoencoder's forward on several cores: one batch a thread, in place of all threads on one batch.

A convolution shared by threads waits for the slowest after each of its layers, and on small ones longer than it works.
Batches know nothing of each other: in the same order, with the bits of one thread, at a fraction of the processor time.
"""

from __future__ import annotations

import copy
import itertools
import queue
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from pipelines.models.autoencoder import Autoencoder

Forward = Callable[[Autoencoder, Tensor], Tensor]
"""Network and pixels [B, 3, T, H, W] to latents [B, C, T', H', W'] on the host."""

MOST_AT_ONCE = 8
"""Batches in their forward at the same time; beyond it, memory costs more than threads that share a batch lose."""


def twin(network: Autoencoder) -> Autoencoder:
    """The network as modules of its own over the same weights: some keep what they see of a clip in themselves."""
    shared = itertools.chain(network.parameters(), network.buffers())
    return copy.deepcopy(network, {id(one): one for one in shared})


@contextmanager
def threads_apart(number: int) -> Iterator[ThreadPoolExecutor]:
    """``number`` threads that share torch's threads among them; afterwards torch has what it had."""
    before = torch.get_num_threads()
    each = max(1, before // number)
    pool = ThreadPoolExecutor(number, "forward", torch.set_num_threads, (each,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


class Forwards:
    """Batches of pixels to latents, in order.

    Args:
        forward: of one batch, pixels to latents on the host.
        network: already on ``device``.
        device: one forward at a time on an accelerator, one a thread of torch on processors.
    """

    def __init__(self, forward: Forward, network: Autoencoder, device: torch.device) -> None:
        self.number = min(MOST_AT_ONCE, torch.get_num_threads()) if device.type == "cpu" else 1
        self.forward = forward
        self._free: queue.SimpleQueue[Autoencoder] = queue.SimpleQueue()
        for one in (network, *(twin(network) for _ in range(self.number - 1))):
            self._free.put(one)

    def _one(self, pixels: Tensor) -> Tensor:
        network = self._free.get()
        try:
            return self.forward(network, pixels)
        finally:
            self._free.put(network)

    def of(self, batches: Iterable[tuple[list[int], Tensor]]) -> Generator[tuple[list[int], Tensor], None, None]:
        """(rows, latents [B, C, T', H', W']) for every (rows, pixels [B, 3, T, H, W]), in order."""
        with threads_apart(self.number) as pool:
            started: deque[tuple[list[int], Future[Tensor]]] = deque()
            for rows, pixels in batches:
                started.append((rows, pool.submit(self._one, pixels)))
                if len(started) > self.number:
                    yield started[0][0], started.popleft()[1].result()
            while started:
                yield started[0][0], started.popleft()[1].result()
