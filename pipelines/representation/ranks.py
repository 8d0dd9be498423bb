"""The processes of a stage that share passes over the samples: who reads which rows, and sums over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather, parse_flag_from_env, reduce


@dataclass(frozen=True)
class Ranks:
    """This process among ``count`` equal ones. All of them must make the same calls in the same order."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def here(cls) -> Ranks:
        """As the launcher started this process; without a launcher, the only one."""
        state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
        return cls(state.process_index, state.num_processes, torch.device(state.device or "cpu"))

    @classmethod
    def alone(cls) -> Ranks:
        """One process by itself on the CPU, wherever it runs."""
        return cls(0, 1, torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes what the stage makes."""
        return self.rank == 0

    def part(self, total: int) -> range:
        """The share of ``total`` rows that this process reads: neighbouring rows, equally many within one."""
        return range(self.rank * total // self.count, (self.rank + 1) * total // self.count)

    def summed(self, values: np.ndarray) -> np.ndarray:
        """The sum over processes, float64, the same in all."""
        if self.count == 1:
            return values.astype(np.float64)
        return reduce(torch.from_numpy(values.astype(np.float64)).to(self.device), "sum").cpu().numpy()  # type: ignore[union-attr]

    def stacked(self, values: np.ndarray) -> np.ndarray:
        """Equal shapes [n, ...] of all processes, one under the other: [count * n, ...]."""
        if self.count == 1:
            return values
        return gather(torch.from_numpy(values).to(self.device)).cpu().numpy()  # type: ignore[union-attr]

    def of_main(self, values: np.ndarray) -> np.ndarray:
        """The main process's values, in all."""
        if self.count == 1:
            return values
        return broadcast(torch.from_numpy(np.ascontiguousarray(values)).to(self.device)).cpu().numpy()  # type: ignore[union-attr]

    def matrix(self, path: Path, shape: tuple[int, int]) -> np.ndarray:
        """A float32 matrix in a file that all processes read and write: larger than memory is well."""
        if self.is_main:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.lib.format.open_memmap(path, "w+", np.float32, shape).flush()
        self.wait()
        return np.lib.format.open_memmap(path, "r+")

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            PartialState().wait_for_everyone()
