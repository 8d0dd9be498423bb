"""The reader: one global order for every number of processes, threads, and places to resume from."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from pipelines.stage import StageError
from pipelines.training.loop import accumulation
from pipelines.training.objective import Batch
from pipelines.training.reading import Reader, micro_seed, reseed
from tests.training.toy import Points, params


class Slow(Points):
    """Points of which some take longer to read than the next ones."""

    def read(self, step: int, start: int, stop: int) -> Batch:
        time.sleep(0.004 * ((step + start) % 3))
        return super().read(step, start, stop)


def keys(processes: int = 1, start: int = 0, micro_batch: int = 2, batches: Points | None = None) -> list[list[str]]:
    """Keys of every global batch from step ``start`` on, put together from what each process reads."""
    batches = batches or Points()
    training = params(steps=6, micro_batch=micro_batch).training
    accumulate = accumulation(training.batch_size, micro_batch, processes)
    found = [[""] * training.batch_size for _ in range(start, training.steps)]
    for process in range(processes):
        accelerator = SimpleNamespace(num_processes=processes, process_index=process)
        run = cast(Any, SimpleNamespace(training=training, accelerator=accelerator, step=start, device="cpu"))
        for number, batch in enumerate(Reader(batches, run, accumulate)):
            step, index = divmod(number, accumulate)
            begin = (index * processes + process) * micro_batch
            found[step][begin : begin + micro_batch] = batch["key"]
    return found


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_any_number_of_processes_reads_the_same_global_batches(processes: int) -> None:
    assert keys(processes) == [Points().keys(step) for step in range(6)]


@pytest.mark.parametrize("workers", ["1", "2", "4"])
@pytest.mark.parametrize("start", [0, 1, 5])
def test_any_number_of_threads_resumes_anywhere_in_the_same_order(
    workers: str, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REEL_READERS", workers)
    assert keys(2, start, batches=Slow()) == [Points().keys(step) for step in range(start, 6)]


def test_a_reader_that_fails_says_so_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Points):
        def read(self, step: int, start: int, stop: int) -> Batch:
            if step == 2:
                raise StageError("sample x is damaged")
            return super().read(step, start, stop)

    monkeypatch.setenv("REEL_READERS", "3")
    with pytest.raises(StageError, match="sample x is damaged"):
        keys(batches=Broken())


@pytest.mark.parametrize("stated", ["0", "-1", "two"])
def test_a_number_of_threads_that_is_none_is_told(stated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REEL_READERS", stated)
    with pytest.raises(StageError, match=f"REEL_READERS is '{stated}'; write a whole number from 1"):
        keys()


def test_reseeding_draws_what_torchs_own_seed_draws() -> None:
    seed = micro_seed(3, 5, 1)
    torch.manual_seed(seed)
    wanted = torch.randn(4)
    torch.manual_seed(0)
    reseed(seed, torch.device("cpu"))
    assert torch.equal(torch.randn(4), wanted)
