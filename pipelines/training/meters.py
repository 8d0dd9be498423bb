"""What is measured while training: means between rows, loss by noise level, speed, memory."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from pipelines.origin import peak_gib
from pipelines.training.reading import Reader

SIGMA_BUCKETS = 4


def sigma_buckets(loss: Tensor, sigma: Tensor) -> Tensor:
    """[2, SIGMA_BUCKETS] on the loss's device: per quarter of sigma ([B], [B, T]), the losses' sum and number."""
    sigma = sigma if sigma.ndim == 1 else sigma.float().mean(dim=1)
    bucket = (sigma.float() * SIGMA_BUCKETS).long().clamp(0, SIGMA_BUCKETS - 1)
    found = loss.new_zeros((2, SIGMA_BUCKETS), dtype=torch.float32)
    found[0].index_add_(0, bucket, loss.float())
    found[1].index_add_(0, bucket, torch.ones_like(loss, dtype=torch.float32))
    return found


BUCKETS = tuple(
    f"loss_by_sigma/{index / SIGMA_BUCKETS:.2f}-{(index + 1) / SIGMA_BUCKETS:.2f}" for index in range(SIGMA_BUCKETS)
)
"""Names of the buckets' means."""


class Scalars:
    """Numbers of one update, kept on the device until all are wanted: one wait for the GPU per update, not one each."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.values: list[Tensor] = []
        self.buckets: list[Tensor] = []

    def add(self, name: str, value: Tensor) -> None:
        """A number by its name; the same name may come once per micro-batch."""
        self.names.append(name)
        self.values.append(value.detach().float().reshape(()))

    def take(self) -> tuple[list[tuple[str, float]], list[tuple[str, float, float]]]:
        """All (name, value) in order, the sigma buckets that have samples as (name, mean, samples); starts anew."""
        flat = [*self.values, *self.buckets]
        numbers = torch.cat([part.reshape(-1) for part in flat]).tolist() if flat else []
        pairs = list(zip(self.names, numbers, strict=False))
        found, rest = [], numbers[len(pairs) :]
        for at in range(0, len(rest), 2 * SIGMA_BUCKETS):
            sums, counts = rest[at : at + SIGMA_BUCKETS], rest[at + SIGMA_BUCKETS : at + 2 * SIGMA_BUCKETS]
            found += [(n, s / c, c) for n, s, c in zip(BUCKETS, sums, counts, strict=True) if c]
        self.names, self.values, self.buckets = [], [], []
        return pairs, found


class Averages:
    """Means of what was logged since the last row; part of the resume state, so that rows are exact."""

    def __init__(self, sums: dict[str, list[float]] | None = None) -> None:
        self.sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0]) | (sums or {})

    def add(self, name: str, value: float, weight: float = 1.0) -> None:
        """Take one value in."""
        total = self.sums[name]
        total[0] += value * weight
        total[1] += weight

    def peek(self, prefix: str, most: int = 3) -> dict[str, float]:
        """The first few means whose names start with ``prefix``."""
        named = [(name, total / weight) for name, (total, weight) in self.sums.items() if name.startswith(prefix)]
        return dict(named[:most])

    def merge(self, accelerator: Accelerator) -> None:
        """Move what every process took in to the first one, where rows are written and states saved."""
        if accelerator.num_processes == 1:
            return
        parts = gather_object([{name: list(total) for name, total in self.sums.items()}])
        self.sums.clear()
        if accelerator.is_main_process:
            for part in parts:
                for name, (total, weight) in part.items():
                    self.sums[name][0] += total
                    self.sums[name][1] += weight

    def take(self) -> dict[str, float]:
        """The means, and start anew."""
        means = {name: total / weight for name, (total, weight) in self.sums.items() if weight}
        self.sums.clear()
        return means


class StepClock:
    """Seconds and samples since the last row."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self.began, self.waited, self.steps = time.perf_counter(), self.reader.waited, 0

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Inside, time does not count."""
        began = time.perf_counter()
        yield
        self.began += time.perf_counter() - began

    def numbers(self, batch_size: int) -> dict[str, float]:
        """Throughput and the share of time spent waiting for data."""
        seconds = max(time.perf_counter() - self.began, 1e-9)
        return {
            "throughput/samples_per_second": self.steps * batch_size / seconds,
            "throughput/step_seconds": seconds / max(self.steps, 1),
            "data/wait_share": (self.reader.waited - self.waited) / seconds,
            "memory/peak_gib": peak_gib(),
        }
