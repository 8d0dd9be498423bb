"""Metrics that decide something while a run goes on: the plateau of a schedule, the end of the run.

Every process takes the same decision: a watched number is the mean over all of them, or for a validation the first's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import broadcast

from pipelines.params import StopAbove, StopBelow
from pipelines.stage import StageError
from pipelines.training.run import Run
from pipelines.training.schedules import Rate, StopRule

SOMETIMES = ("validation/", "loss_by_sigma/")
"""Metrics that not every update has."""


class Watches:
    """Who watches which metric of a run."""

    def __init__(self, rates: Mapping[str, Rate], stop_when: StopBelow | StopAbove | None, run: Run) -> None:
        self.run, self.rates = run, rates
        self.stop = StopRule(stop_when) if stop_when is not None else None
        self.takers: dict[str, list[Rate | StopRule]] = {}
        for rate in rates.values():
            if rate.metric is not None:
                self.takers.setdefault(rate.metric, []).append(rate)
        if self.stop is not None:
            self.takers.setdefault(self.stop.rule.metric, []).append(self.stop)

    def take(self, values: Sequence[tuple[str, float]]) -> None:
        """The numbers of one update (of this process; a name comes once per micro-batch).

        Raises:
            StageError: a watched metric is not among them.
        """
        for name, takers in self.takers.items():
            found = [value for known, value in values if known == name]
            if name.startswith("validation/"):
                continue
            if not found and not name.startswith(SOMETIMES):
                raise self._unknown(name, {known for known, _ in values})
            pair = torch.tensor([sum(found), len(found)], dtype=torch.float64, device=self.run.device)
            if self.run.accelerator.num_processes > 1:
                pair = self.run.accelerator.reduce(pair, reduction="sum")
            total, count = pair.tolist()  # type: ignore[union-attr]
            for taker in takers if count else ():
                taker.take(total / count)

    def take_validation(self, numbers: Mapping[str, float]) -> None:
        """The numbers of one validation, under their logged names.

        Raises:
            StageError: a watched validation metric is not among them.
        """
        for name, takers in self.takers.items():
            if not name.startswith("validation/"):
                continue
            if name not in numbers:
                raise self._unknown(name, set(numbers))
            value = torch.tensor(float(numbers[name]), dtype=torch.float64, device=self.run.device)
            if self.run.accelerator.num_processes > 1:
                value = broadcast(value)
            for taker in takers:
                taker.take(float(value))  # type: ignore[arg-type]

    def _unknown(self, name: str, known: set[str]) -> StageError:
        return StageError(
            f"{self.run.name}.training: stop_when or reduce_on_plateau watches {name}, which is not measured here; "
            f"known: {', '.join(sorted(known)) or 'nothing'}."
        )

    @property
    def ended(self) -> str | None:
        """Why the run is to end now, None while it is not."""
        if self.stop is None or self.stop.reached is None:
            return None
        return f"{self.stop} (it was {self.stop.reached:.6g})"

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs."""
        rates = {name: rate.state_dict() for name, rate in self.rates.items()}
        return {"rates": rates, "stop": self.stop.state_dict() if self.stop else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        for name, rate in self.rates.items():
            rate.load_state_dict(state["rates"][name])
        if self.stop is not None:
            self.stop.load_state_dict(state["stop"])
