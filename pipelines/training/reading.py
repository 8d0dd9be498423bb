"""From the data to the loop: each process's part of the global batch, read ahead in threads, in the order of steps."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import islice

import torch
from torch import Tensor

from pipelines.stage import StageError
from pipelines.threads import readers
from pipelines.training.objective import Batch, Batches
from pipelines.training.run import Run

WORKERS = "REEL_READERS"
"""Variable with the number of micro-batches that a process reads ahead, each in a thread of its own; 1 if unset."""


def workers() -> int:
    """How many threads read, as this machine's environment says.

    Raises:
        StageError: the variable is no whole number from 1.
    """
    stated = os.environ.get(WORKERS) or "1"
    if not stated.isdecimal() or int(stated) < 1:
        raise StageError(f"{WORKERS} is {stated!r}; write a whole number from 1, or leave it unset.")
    return int(stated)


def _move(batch: Batch, device: torch.device) -> Batch:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


class Reader:
    """Reads the next micro-batches while this one is trained on; counts the seconds that one was waited for.

    What a micro-batch holds is a function of its step and place, so the number of threads changes nothing but the wait.
    """

    def __init__(self, batches: Batches, run: Run, accumulate: int) -> None:
        self.batches, self.run, self.accumulate = batches, run, accumulate
        self.waited = 0.0
        self.workers = workers()

    def _read(self, step: int, index: int) -> Batch:
        micro, world = self.run.training.micro_batch, self.run.accelerator.num_processes
        start = (index * world + self.run.accelerator.process_index) * micro
        return self.batches.read(step, start, start + micro)

    def _places(self) -> Iterator[tuple[int, int]]:
        """(step, micro-batch of the step), from where the run stands to its end."""
        for step in range(self.run.step, self.run.training.steps):
            for index in range(self.accumulate):
                yield step, index

    def __iter__(self) -> Iterator[Batch]:
        places = self._places()
        ahead: deque[Future[Batch]] = deque()
        with readers(self.workers) as pool:
            try:
                ahead.extend(pool.submit(self._read, *place) for place in islice(places, self.workers))
                while ahead:
                    began = time.perf_counter()
                    batch = ahead.popleft().result()
                    self.waited += time.perf_counter() - began
                    ahead.extend(pool.submit(self._read, *place) for place in islice(places, 1))
                    yield _move(batch, self.run.device)
            finally:
                for future in ahead:
                    future.cancel()


def reseed(seed: int, device: torch.device) -> None:
    """Seed torch's randomness on a device as ``torch.manual_seed`` does.

    That one also seeds every kind of device that is not there, and formats a stack trace for each: a millisecond.
    """
    if device.type not in ("cpu", "cuda"):
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def micro_seed(seed: int, step: int, index: int) -> int:
    """Seed of the randomness of one micro-batch: a function of (seed, step, place in the global batch) alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{index}".encode()).digest()[:8], "little") >> 1
