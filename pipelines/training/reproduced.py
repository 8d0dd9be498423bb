"""Whether an artifact that was made again is the same: bit by bit, else how far its numbers lie apart."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from pipelines.chain import content_hash
from pipelines.described import read_json
from pipelines.leftovers import WORK
from pipelines.provenance import SHORT, flat
from pipelines.stage import BESIDE
from pipelines.training.same import different_file, first_difference
from pipelines.training.tracking import read_rows


def compared(then: Path, again: Path, within: float) -> tuple[bool, list[str]]:
    """Whether it is the same, or within the noise that was asked for; and what was found, a line each."""
    there, here = content_hash(then), content_hash(again)
    file = different_file(then, again, BESIDE)
    if there == here and file is None:
        count = sum(path.is_file() and path.name not in BESIDE for path in again.rglob("*"))
        return True, [f"the same, bit by bit: content {here[:SHORT]}, {count} files"]
    said = f"not the same bits: content {there[:SHORT]} then, {here[:SHORT]} now"
    said = said if there != here else f"the same content {here[:SHORT]}, other files beside it"
    lines = [said, f"first file that differs: {file}"]
    lines += _first_step(then, again)
    worst = _worst(_numbers(then), _numbers(again))
    if worst is None:
        return False, [*lines, "no numbers of both are at hand to compare"]
    name, was, now, apart = worst
    told = f"of its numbers {name} differs most: {was:.6g} then, {now:.6g} now, {apart:.2%} apart"
    verdict = f"within {within:g}: as asked" if apart <= within else f"more than the {within:g} that was asked for"
    return apart <= within, [*lines, told, verdict]


def forget(place: Path) -> None:
    """Throw away what an earlier try left that came to its end: it would be found again, and nothing made again.

    What a try left that was stopped stays, so that a long training goes on.
    """
    for record in (place / WORK).glob("*/*/record.json"):
        try:
            is_finished = read_json(record).get("status") == "finished"
        except (OSError, ValueError, AttributeError):
            is_finished = True  # damaged: nobody knows of what it is
        if is_finished:
            shutil.rmtree(record.parent)


def _first_step(one: Path, other: Path) -> list[str]:
    files = [folder / "metrics.jsonl" for folder in (one, other)]
    if not all(path.is_file() for path in files):
        return []
    found = first_difference(*map(read_rows, files))
    return [f"first number that differs: at step {found[0]}, {found[1]}" if found else "all logged numbers are equal"]


def _numbers(folder: Path) -> dict[str, float]:
    """The results that an artifact carries: of a checkpoint its record, else the gates of its chain."""
    results = read_json(folder / "checkpoint.json").get("results")
    chain = read_json(folder / BESIDE[0])
    node = (chain.get("nodes") or {}).get(chain.get("artifact")) or {}
    gates = {str(gate.get("name")): gate.get("value") for gate in node.get("gates") or []}
    found = flat(results) if isinstance(results, dict) else gates
    return {k: float(v) for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _worst(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[str, float, float, float] | None:
    """The number that differs most: its name, both values, and their distance over the larger of both."""
    apart = [
        (name, was, other[name], abs(was - other[name]) / (max(abs(was), abs(other[name])) or 1.0))
        for name, was in one.items()
        if name in other
    ]
    return max(apart, key=lambda found: found[3], default=None)
