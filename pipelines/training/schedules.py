"""Learning-rate factors over steps, and what watches a metric: the plateau of a schedule, the end of a run.

A watched metric is smoothed over its last values; a value that is not finite is never taken in, so that a NaN can
neither end a run nor lower a rate.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from pipelines.params import Constant, Exponential, Falling, ReduceOnPlateau, Schedule, Step, StopAbove, StopBelow


def shape_at(schedule: Constant | Falling | Step | Exponential, done: int, left: int) -> float:
    """Factor ``done`` steps after the warm-up, of the ``left`` steps that the run has after it."""
    share = done / max(1, left)
    match schedule:
        case Constant():
            return 1.0
        case Falling(shape="linear"):
            return schedule.floor + (1.0 - schedule.floor) * (1.0 - share)
        case Falling():
            return schedule.floor + (1.0 - schedule.floor) * 0.5 * (1.0 + math.cos(math.pi * share))
        case Step():
            return schedule.factor ** (done // schedule.every)
        case Exponential():
            return max(schedule.floor, schedule.factor**done)


class Smoothed:
    """Mean of the last ``over`` finite values; None until there are so many."""

    def __init__(self, over: int) -> None:
        self.values: deque[float] = deque(maxlen=over)

    def take(self, value: float) -> float | None:
        """Take a value in and give the mean; a value that is not finite is left out and gives None."""
        if not math.isfinite(value):
            return None
        self.values.append(value)
        return math.fsum(self.values) / len(self.values) if len(self.values) == self.values.maxlen else None


class Rate:
    """The learning-rate factor of one network over its run."""

    def __init__(self, schedule: Schedule, steps: int) -> None:
        self.schedule, self.steps = schedule, steps
        self.reduced, self.best, self.waited = 1.0, math.inf, 0
        self.smoothed = Smoothed(schedule.smoothed_over if isinstance(schedule, ReduceOnPlateau) else 1)

    @property
    def metric(self) -> str | None:
        """The metric that this schedule watches, if any."""
        return self.schedule.metric if isinstance(self.schedule, ReduceOnPlateau) else None

    def factor(self, step: int) -> float:
        """Factor of update ``step`` (from 0): linear warm-up, then the shape."""
        warmup = min(1.0, (step + 1) / (self.schedule.warmup_steps + 1))
        if isinstance(self.schedule, ReduceOnPlateau):
            return warmup * self.reduced
        done = max(0, step - self.schedule.warmup_steps)
        return warmup * shape_at(self.schedule, done, self.steps - self.schedule.warmup_steps)

    def take(self, value: float) -> None:
        """A new value of the watched metric."""
        plateau, mean = self.schedule, self.smoothed.take(value)
        if not isinstance(plateau, ReduceOnPlateau) or mean is None:
            return
        if mean < self.best - plateau.min_change * abs(self.best) or self.best == math.inf:
            self.best, self.waited = mean, 0
            return
        self.waited += 1
        if self.waited >= plateau.patience:
            self.reduced, self.waited = max(plateau.floor, self.reduced * plateau.factor), 0

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs."""
        best = None if self.best == math.inf else self.best
        return {"reduced": self.reduced, "best": best, "waited": self.waited, "values": list(self.smoothed.values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.reduced, self.waited = state["reduced"], state["waited"]
        self.best = math.inf if state["best"] is None else state["best"]
        self.smoothed.values.extend(state["values"])


class StopRule:
    """``stop_when``: whether, and with what value, the run is to end early."""

    def __init__(self, rule: StopBelow | StopAbove) -> None:
        self.rule = rule
        self.smoothed = Smoothed(rule.smoothed_over)
        self.reached: float | None = None

    def take(self, value: float) -> None:
        """A new value of the watched metric."""
        mean = self.smoothed.take(value)
        if mean is None or self.reached is not None:
            return
        below = isinstance(self.rule, StopBelow) and mean < self.rule.below
        above = isinstance(self.rule, StopAbove) and mean > self.rule.above
        if below or above:
            self.reached = mean

    def __str__(self) -> str:
        side, limit = ("below", self.rule.below) if isinstance(self.rule, StopBelow) else ("above", self.rule.above)
        return f"{self.rule.metric} {side} {limit:g} over {self.rule.smoothed_over} values"

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs."""
        return {"values": list(self.smoothed.values), "reached": self.reached}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.smoothed.values.extend(state["values"])
        self.reached = state["reached"]
