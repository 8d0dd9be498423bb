"""What each block of a section costs: ``reel fit STAGE --blocks A B`` trains without them, with A, with A and B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.params import ParamsError


def without(section: str, values: Mapping[str, Any], blocks: Sequence[str]) -> dict[str, Any]:
    """The values of a section with some blocks null; what belongs together is joined by ``+``: ``a+losses.b``.

    Raises:
        ParamsError: there is no such block, or it is null already.
    """
    found = _copied(values)
    for path in (path for block in blocks for path in block.split("+")):
        *outer, last = path.split(".")
        holder: Any = found
        for name in outer:
            holder = holder.get(name) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or last not in holder:
            there = ", ".join(name for name, value in (holder or found).items() if isinstance(value, dict))
            raise ParamsError(f"--blocks {path}: {section} has no such block; there are {there}.")
        if holder[last] is None:
            raise ParamsError(f"--blocks {path}: {section}.{path} is null, so there is nothing to measure; state it.")
        holder[last] = None
    return found


def _copied(value: Any) -> Any:
    return {name: _copied(one) for name, one in value.items()} if isinstance(value, Mapping) else value


def at_full_weight(values: Any) -> Any:
    """The same with every term of a loss from the first update on: a few steps would end before a ``warmup`` begins."""
    if not isinstance(values, Mapping):
        return values
    return {name: None if name == "warmup" else at_full_weight(value) for name, value in values.items()}


def steps(now: Mapping[str, Any], blocks: Sequence[str]) -> list[dict[str, Any]]:
    """The choices: none of the blocks, then one more each time."""
    return [{**now, "absent": list(blocks[count:])} for count in range(len(blocks) + 1)]


def table(stage: str, blocks: Sequence[str], found: Sequence[Mapping[str, Any]]) -> str:
    """A line per choice: peak memory, what the block added to it, and a step's time."""
    names = [stage, *(f"+ {block}" for block in blocks)]
    width, before = max(map(len, names)), None
    lines = [f"{'':{width}}  peak GiB   added  s/step"]
    for name, one in zip(names, found, strict=True):
        if "error" in one:
            lines.append(f"{name:{width}}  {one['error']}")
            continue
        added = "" if before is None else f"{one['peak_gib'] - before:+.2f}"
        lines.append(f"{name:{width}}  {one['peak_gib']:8.2f}  {added:>6}  {one['step_seconds']:6.3g}")
        before = one["peak_gib"]
    return "\n".join(lines)
