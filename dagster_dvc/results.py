"""What a stage left behind, read from its metrics and plots: numbers, verdicts of gates, pictures, tables.

A metrics file (JSON or YAML) may hold a list ``gates`` of ``{name, value, threshold, comparison, verdict, reason}``;
the stage decides the verdict ``pass``, ``warn`` or ``fail``. A gate may also be declared in dvc.yaml, without code, as
a bound on a metric: ``meta: {dagster: {checks: [{metric: psnr, min: 25, blocking: true}]}}``. A plain name in that list
announces a gate that the metrics file will hold.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from dagster_dvc import meta
from dagster_dvc.meta import Check
from dagster_dvc.project import DvcProject, Stage
from dagster_dvc.yaml12 import load

Verdict = Literal["pass", "warn", "fail"]
NOT_METRICS = {"gates", "unavailable"}
PICTURES = {".png", ".jpg", ".jpeg", ".webp"}


@dataclass(frozen=True)
class Verdicts:
    """A gate's outcome: the number, the bound, and what to think of it."""

    name: str
    verdict: Verdict
    value: float | None
    threshold: float | None
    comparison: str
    reason: str = ""

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        if self.value is None:
            return f"{self.name}: {self.verdict}{reason}"
        return f"{self.name}: {self.value:g} {self.comparison} {self.threshold:g}: {self.verdict}{reason}"


def checks(stage: Stage) -> list[Check]:
    """The gates that dvc.yaml declares for a stage; what is none of them is left out, see `dagster_dvc.meta`."""
    return meta.read(stage).checks


def read_metrics(project: DvcProject, stage: Stage) -> dict[str, Any]:
    """The contents of a stage's metrics files, merged; empty where there are none yet."""
    merged: dict[str, Any] = {}
    for out in stage.outs_of("metrics"):
        file = project.root / out.path
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            found = json.loads(text) if file.suffix == ".json" else load(text)
            merged |= found if isinstance(found, dict) else {}
    return merged


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Every finite number of a metrics file, under slash names (``psnr/held_out``)."""
    found: dict[str, float] = {}
    for key, value in metrics.items():
        if key in NOT_METRICS:
            continue
        if isinstance(value, Mapping):
            found |= {f"{key}/{inner}": number for inner, number in numbers(value).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[str(key)] = value
    return found


def verdicts(stage: Stage, metrics: Mapping[str, Any]) -> list[Verdicts]:
    """The outcome of every gate: those the stage wrote, then the bounds of dvc.yaml."""
    written = [_written(gate) for gate in metrics.get("gates") or [] if isinstance(gate, Mapping) and "name" in gate]
    values = numbers(metrics)
    bounds = [_bounded(check, values) for check in checks(stage) if check.metric is not None]
    names = {gate.name for gate in [*written, *bounds]}
    absent = [
        Verdicts(check.name, "warn", None, None, "", "the metrics file does not hold this gate")
        for check in checks(stage)
        if check.name not in names
    ]
    return [*written, *bounds, *absent]


def _written(gate: Mapping[str, Any]) -> Verdicts:
    verdict = gate.get("verdict")
    return Verdicts(
        str(gate["name"]),
        verdict if verdict in ("pass", "warn", "fail") else "fail",
        gate.get("value"),
        gate.get("threshold"),
        str(gate.get("comparison", "")),
        str(gate.get("reason") or ""),
    )


def _bounded(check: Check, values: Mapping[str, float]) -> Verdicts:
    value = values.get(check.metric or "")
    bound, comparison = (check.min, ">=") if check.min is not None else (check.max, "<=")
    if value is None:
        return Verdicts(check.name, "fail", None, bound, comparison, f"the metrics hold no number '{check.metric}'")
    held = (check.min is None or value >= check.min) and (check.max is None or value <= check.max)
    if check.min is not None and value >= check.min and check.max is not None:
        bound, comparison = check.max, "<="
    verdict: Verdict = "pass" if held else "fail" if check.blocking else "warn"
    return Verdicts(check.name, verdict, value, bound, comparison)


def pictures(project: DvcProject, stage: Stage) -> list[Path]:
    """The pictures among a stage's plots, by name."""
    found: list[Path] = []
    for out in stage.outs_of("plots"):
        path = project.root / out.path
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [file for file in files if file.suffix.lower() in PICTURES and file.is_file()]
    return found


def headline(stage: Stage, metrics: Mapping[str, Any], count: int = 3) -> dict[str, float]:
    """The few numbers to show on one line: those that ``meta.dagster.headline`` names, else the first ones.

    A name may be a pattern: ``systems/*/distance``.
    """
    found = numbers(metrics)
    named = meta.read(stage).headline
    matched = dict.fromkeys(name for pattern in named for name in found if fnmatchcase(name, pattern))
    chosen = list(matched) or [name for name in found if "seconds" not in name][:count]
    return {name: found[name] for name in chosen}
