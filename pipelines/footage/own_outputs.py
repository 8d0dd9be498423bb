"""What the project makes of its clips is no source of them: the graph would be a circle, and DVC refuses it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.stage import StageError

KEPT = (".dvc", ".dagster", ".work", ".git")
"""Folders of tools, with copies of what stages have made."""


def _paths(entry: Mapping[str, Any], *keys: str) -> list[Path]:
    named = [one for key in keys for one in entry.get(key) or []]
    return [Path(one if isinstance(one, str) else next(iter(one))) for one in named]


def _meet(one: Path, other: Path) -> bool:
    return one == other or one in other.parents or other in one.parents


def made_from(entries: Mapping[str, Mapping[str, Any]], stage: str) -> dict[Path, str]:
    """Outputs of a stage and of all that follow it, each with the stage that makes it."""
    made = dict.fromkeys(_paths(entries[stage], "outs", "metrics", "plots"), stage) if stage in entries else {}
    left = {name: entry for name, entry in entries.items() if name != stage}
    while following := [
        name for name, entry in left.items() if any(_meet(dep, out) for dep in _paths(entry, "deps") for out in made)
    ]:
        for name in following:
            made |= dict.fromkeys(_paths(left.pop(name), "outs", "metrics", "plots"), name)
    return made


def refuse_own(path: str, entries: Mapping[str, Mapping[str, Any]], stage: str) -> None:
    """Nothing, where a folder or file may be a source of the stage.

    Raises:
        StageError: the project lies in it, or it is, holds or lies in what is made from the clips.
    """
    here, place = Path.cwd().resolve(), Path(path).resolve()
    if not place.exists():
        return
    if place.is_dir() and place in (here, *here.parents):
        raise StageError(
            f"{path}: the project lies in it, and what it makes would be its footage; name a folder beside."
        )
    for out, maker in made_from(entries, stage).items():
        if _meet(place, (here / out).resolve()):
            raise StageError(f"{path}: stage {maker} makes {out.as_posix()} from the clips; name a folder of footage.")
    if any(_meet(place, here / name) for name in KEPT):
        raise StageError(f"{path}: the project's tools keep copies of its results there; name a folder of footage.")
