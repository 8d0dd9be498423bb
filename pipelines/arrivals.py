"""Data that moves while a stage reads it: what no stage makes is looked at when a stage starts and when it ends.

DVC hashes a dependency when a stage *ends*: a file that came meanwhile would be recorded as read, and never be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pathspec

from pipelines.document import load
from pipelines.litter import walk
from pipelines.stage import StageError, write_json

PASSES = 3
"""How often a stage is run until nothing has moved while it ran."""
NAMED = 3
"""How many files a message names."""

READ = "read.json"
"""File of a stage's work folder: the listing that its last run has read. By it `reel status` finds what comes between
the launcher's last look and DVC's own, a fraction of a second later."""

Listing = dict[str, tuple[int, int]]
"""File -> (bytes, nanoseconds of its last change)."""


def sources(stage: str, graph: Path = Path("dvc.yaml")) -> list[Path]:
    """Data among the stage's dependencies that no stage makes: footage, tars, captions. Packages of Python are code."""
    stages = (load(graph.read_text(encoding="utf-8")) or {}).get("stages", {}) if graph.is_file() else {}
    deps = [dep for dep in (stages.get(stage) or {}).get("deps", []) if isinstance(dep, str) and "://" not in dep]
    made = [PurePosixPath(out) for entry in stages.values() for out in _outs(entry)]
    return [Path(dep) for dep in deps if not _is_code(Path(dep)) and not _overlaps(PurePosixPath(dep), made)]


def _outs(entry: Mapping[str, Any]) -> Iterator[str]:
    for kind in ("outs", "metrics", "plots"):
        for out in entry.get(kind) or []:
            yield from out if isinstance(out, dict) else [out]


def _overlaps(dep: PurePosixPath, outs: list[PurePosixPath]) -> bool:
    return any(dep == out or dep in out.parents or out in dep.parents for out in outs)


def _is_code(dep: Path) -> bool:
    return dep.suffix == ".py" or any((folder / "__init__.py").is_file() for folder in (dep, *dep.parents[:-1]))


def _ignored(file: Path = Path(".dvcignore")) -> pathspec.PathSpec:
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return pathspec.PathSpec.from_lines("gitignore", lines)


def listing(paths: list[Path]) -> Listing:
    """Every file below the paths with size and time, but what ``.dvcignore`` and file managers' litter name."""
    found: Listing = {}
    ignored = _ignored()
    for path in paths:
        files = (folder / name for folder, _, names in walk(path) for name in names) if path.is_dir() else [path]
        for file in files:
            try:
                facts = file.stat()
            except OSError:  # gone since it was listed, or a link to nothing: not there
                continue
            if not ignored.match_file(file.as_posix()):
                found[file.as_posix()] = (facts.st_size, facts.st_mtime_ns)
    return found


def news(before: Listing, after: Listing) -> str:
    """What differs between two looks, in words; empty when nothing does."""
    kinds = {
        "arrived": sorted(after.keys() - before.keys()),
        "changed": sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
        "went": sorted(before.keys() - after.keys()),
    }
    return ", ".join(f"{_named(names)} {what}" for what, names in kinds.items() if names)


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def until_still(stage: str, run: Callable[[], tuple[int, bool]]) -> tuple[int, bool]:
    """Run until no data moved meanwhile: DVC hashes what it finds at the end, and calls it processed.

    Raises:
        StageError: data moved every time.
    """
    paths, moved = sources(stage), ""
    for turn in range(PASSES):
        before = listing(paths)
        code, asked = run()
        moved = news(before, listing(paths)) if code == 0 else ""
        if not moved:
            if paths and code == 0:
                write_json(Path(".work") / stage / READ, before)
            return code, asked
        if asked:
            break
        if turn + 1 < PASSES:
            print(f"{stage}: {moved} while it ran; it runs once more, so that DVC records what was read", flush=True)
    raise StageError(
        f"{moved} while the stage was running, and DVC would record it as read. Nothing is recorded: run it again when "
        "nothing more arrives (what is done is kept in .work and reused)."
    )
