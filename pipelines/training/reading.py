"""From the data to the loop: each process's part of the global batch, read one ahead."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from pipelines.training.objective import Batch, Batches
from pipelines.training.run import Run


def _move(batch: Batch, device: torch.device) -> Batch:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


class Reader:
    """Reads the next micro-batch in a thread while this one is trained on; counts the seconds it was waited for."""

    def __init__(self, batches: Batches, run: Run, accumulate: int) -> None:
        self.batches, self.run, self.accumulate = batches, run, accumulate
        self.waited = 0.0

    def _read(self, step: int, index: int) -> Batch:
        micro, world = self.run.training.micro_batch, self.run.accelerator.num_processes
        start = (index * world + self.run.accelerator.process_index) * micro
        return self.batches.read(step, start, start + micro)

    def __iter__(self) -> Iterator[Batch]:
        places = [
            (step, index) for step in range(self.run.step, self.run.training.steps) for index in range(self.accumulate)
        ]
        with ThreadPoolExecutor(1, thread_name_prefix="reader") as pool:
            following: Future[Batch] | None = None
            for number, place in enumerate(places):
                began = time.perf_counter()
                batch = (following or pool.submit(self._read, *place)).result()
                self.waited += time.perf_counter() - began
                following = pool.submit(self._read, *places[number + 1]) if number + 1 < len(places) else None
                yield _move(batch, self.run.device)
