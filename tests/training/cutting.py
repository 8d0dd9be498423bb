"""A run that was stopped and one that was not: what they leave is equal, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import stage
from pipelines.training.run import Run
from pipelines.training.tracking import read_rows
from tests.training.toy import Regression, ToyParams, train_toy


def left_behind(objective: Regression, done: Run) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Weights and averages of a run, and its rows without times."""
    tensors = {f"net/{name}": value for name, value in objective.net.state_dict().items()}
    tensors |= {f"ema/{name}": value for name, value in done.emas["net"].weights.items()}
    timed = ("seconds", "throughput/", "data/", "memory/")
    rows = read_rows(done.work / "rows.jsonl")
    return tensors, [{key: value for key, value in row.items() if not key.startswith(timed)} for row in rows]


def cut_equals_whole(
    folder: Path, section: ToyParams, cuts: list[int], kind: Callable[..., Regression] = Regression
) -> Run:
    """Train once in one go, once stopped by a signal after each of the steps ``cuts``; gives the latter."""
    whole, rows = left_behind(*train_toy(folder / "whole", section, kind))
    for cut in cuts:

        class Interrupted(kind):  # type: ignore[misc, valid-type]
            def losses(self, batch: Any, step: int, last: int = cut - 1) -> Any:
                if step == last:
                    stage.current().stop.set()
                return super().losses(batch, step)

        with pytest.raises(stage.Stopped):
            train_toy(folder / "cut", section, Interrupted)
        stage.current().stop.clear()
    objective, resumed = train_toy(folder / "cut", section, kind)
    found, found_rows = left_behind(objective, resumed)
    assert resumed.resumes == len(cuts) and rows == found_rows and whole.keys() == found.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, found[name]), name
    return resumed
