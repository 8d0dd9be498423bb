"""The autoencoder's forward on several cores: one batch a thread, in place of all threads on one batch.

Batches know nothing of each other: in the same order, with the bits of one thread, at a fraction of the processor time.
"""

from __future__ import annotations

import copy
import itertools
import queue
from collections.abc import Callable, Generator, Iterable

import torch
from torch import Tensor

from pipelines.models.autoencoder import Autoencoder
from pipelines.threads import at_once, side_by_side

Forward = Callable[[Autoencoder, Tensor], Tensor]
"""Network and a batch to what it makes of it, on the host: pixels to latents, or latents to pixels."""


def twin(network: Autoencoder) -> Autoencoder:
    """The network as modules of its own over the same weights: some keep what they see of a clip in themselves."""
    shared = itertools.chain(network.parameters(), network.buffers())
    return copy.deepcopy(network, {id(one): one for one in shared})


class Forwards:
    """Batches through an autoencoder, in order.

    Args:
        forward: of one batch.
        network: already on ``device``.
        device: one forward at a time on an accelerator, one a thread of torch on processors.
    """

    def __init__(self, forward: Forward, network: Autoencoder, device: torch.device) -> None:
        self.number = at_once(device)
        self.forward = forward
        self._free: queue.SimpleQueue[Autoencoder] = queue.SimpleQueue()
        for one in (network, *(twin(network) for _ in range(self.number - 1))):
            self._free.put(one)

    def _one(self, batch: tuple[list[int], Tensor]) -> Tensor:
        network = self._free.get()
        try:
            return self.forward(network, batch[1])
        finally:
            self._free.put(network)

    def of(self, batches: Iterable[tuple[list[int], Tensor]]) -> Generator[tuple[list[int], Tensor], None, None]:
        """(rows, what the forward gives) for every (rows, batch), in order."""
        for (rows, _), made in side_by_side(self._one, batches, self.number):
            yield rows, made
