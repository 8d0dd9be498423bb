"""What differs from the asset's materialization before: parameters, inputs, command, output and numbers.

Each materialization carries what it was made from and what came out (:data:`RECORDED`), so the next one can say what is
new. A materialization of the same again (DVC reused it, or a second process reports it) keeps what was said of it.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster import DagsterInstance

from dagster_dvc.lock import Entry
from dagster_dvc.project import DvcProject, Out, Stage
from dagster_dvc.results import headline, numbers, read_metrics
from dagster_dvc.shown import MOST_NAME, visible

RECORDED, CHANGED = "dvc/recorded", "changed since the one before"
MOST_ROWS, MOST_NUMBERS, SHORT = 60, 20, 12
FIRST = "the first materialization that Dagster knows"
SAME = "nothing: the same again"


def recorded(project: DvcProject, stage: Stage, out: Out | None, entry: Entry) -> dict[str, dict[str, str]]:
    """By kind and name, as texts: everything that the lock file has of a stage, and its numbers."""
    found = list(_telling(stage, read_metrics(project, stage)).items())[:MOST_NUMBERS]
    params = {name: text for values in entry.params.values() for name, text in _flat(values)}
    outs = {out.path: entry.outs[out.path]} if out is not None and out.path in entry.outs else entry.outs
    command = entry.cmd if isinstance(entry.cmd, str) else " && ".join(entry.cmd)
    return {
        "params": params,
        "input": {path: one.hash or "unknown" for path, one in entry.deps.items()},
        "command": {"cmd": command},
        "output": {path: one.hash or "unknown" for path, one in outs.items()},
        "number": {visible(name, MOST_NAME): f"{value:.6g}" for name, value in found},
    }


def _telling(stage: Stage, metrics: Mapping[str, Any]) -> dict[str, float]:
    """Its numbers, the headline's first, without those that only tell of another one: its spread, interval, chance."""
    found = numbers(metrics)

    def tells_of_another(name: str) -> bool:
        return any(name[:at] in found for at, letter in enumerate(name) if letter == "_")

    own = {name: value for name, value in found.items() if not tells_of_another(name)}
    return {**headline(stage, metrics), **own} if found else {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        nested = isinstance(value, Mapping) and value
        told = visible(f"{prefix}{name}", MOST_NAME)
        rows += _flat(value, f"{told}.") if nested else [(told, visible(str(value), 200))]
    return rows


def changed(instance: DagsterInstance, key: dg.AssetKey, now: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Metadata for a materialization that is about to be reported."""
    event = instance.get_latest_materialization_event(key)
    metadata = event.asset_materialization.metadata if event and event.asset_materialization else {}
    known = metadata.get(RECORDED)
    before = known.value if isinstance(known, dg.JsonMetadataValue) else None
    told: Any = FIRST
    if isinstance(before, dict):
        rows = _rows(before, now)
        told = dg.MetadataValue.table([dg.TableRecord(row) for row in rows[:MOST_ROWS]]) if rows else SAME
        if not rows and CHANGED in metadata:
            told = metadata[CHANGED]
    return {CHANGED: told, RECORDED: dg.MetadataValue.json({kind: dict(values) for kind, values in now.items()})}


def _rows(before: Mapping[str, Any], now: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]:
    rows = []
    for kind, values in now.items():
        was = before.get(kind) or {}
        shown = SHORT if kind in ("input", "output") else None  # a whole hash would push the other one out of sight
        for name in dict.fromkeys([*values, *was]):
            old, new = str(was.get(name, "–")), str(values.get(name, "–"))
            if old != new:
                rows.append({"what": kind, "name": name, "before": old[:shown], "now": new[:shown]})
    return rows
