"""Whether two trainings are the same: all logged numbers step by step, and all files, to the last bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.stage import RUNS, file_digest
from pipelines.training.tracking import without_machine

Row = Mapping[str, float]


def first_difference(base: Sequence[Row], here: Sequence[Row]) -> tuple[int, str] | None:
    """The first step at which a number differs, and which; None where all but the machine's are equal."""
    for one, other in zip(base, here, strict=False):
        for name in without_machine({**one, **other}):
            if one.get(name) != other.get(name):
                before, after = (row.get(name, "absent") for row in (one, other))
                return int(one["step"]), f"{name}: {before} → {after}"
    return None if len(base) == len(here) else (min(len(base), len(here)) + 1, "one of them has no such step")


def different_file(base: Path, here: Path, besides: Sequence[str] = (RUNS,)) -> str | None:
    """The first file, by name, that is in one folder only or has other bytes; None where all are equal.

    Files called as one of ``besides`` are left out: who ran it when differs always.
    """
    names = {path.relative_to(folder) for folder in (base, here) for path in folder.rglob("*") if path.is_file()}
    for name in sorted(name for name in names if name.name not in besides):
        one, other = base / name, here / name
        if not (one.is_file() and other.is_file()):
            return f"{name}: only {'before' if one.is_file() else 'now'}"
        if file_digest(one) != file_digest(other):
            return f"{name}: other bytes"
    return None
