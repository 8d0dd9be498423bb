"""What is measured while training: means between rows, loss by noise level, speed, memory."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict

import torch
from torch import Tensor

from pipelines.training.reading import Reader

SIGMA_BUCKETS = 4


def sigma_buckets(loss: Tensor, sigma: Tensor) -> dict[str, float]:
    """Mean loss in each quarter of [0, 1] of sigma that has samples."""
    bucket = (sigma.float() * SIGMA_BUCKETS).long().clamp(0, SIGMA_BUCKETS - 1)
    found = {}
    for index in bucket.unique().tolist():
        name = f"loss_by_sigma/{index / SIGMA_BUCKETS:.2f}-{(index + 1) / SIGMA_BUCKETS:.2f}"
        found[name] = float(loss[bucket == index].mean())
    return found


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

    def take(self) -> dict[str, float]:
        """The means, and start anew."""
        means = {name: total / weight for name, (total, weight) in self.sums.items() if weight}
        self.sums.clear()
        return means


def peak_gib() -> float:
    """Peak memory: of the GPU where there is one, else resident memory of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    scale = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


class Clock:
    """Seconds and samples since the last row."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self.began, self.waited, self.steps = time.perf_counter(), self.reader.waited, 0

    def numbers(self, batch_size: int) -> dict[str, float]:
        """Throughput and the share of time spent waiting for data."""
        seconds = max(time.perf_counter() - self.began, 1e-9)
        return {
            "throughput/samples_per_second": self.steps * batch_size / seconds,
            "throughput/step_seconds": seconds / max(self.steps, 1),
            "data/wait_share": (self.reader.waited - self.waited) / seconds,
            "memory/peak_gib": peak_gib(),
        }
