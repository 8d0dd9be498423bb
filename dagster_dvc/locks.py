"""DVC's read-write lock (``.dvc/tmp/rwlock``): who holds a stage, and entries of processes that are gone.

DVC asks only whether the process id exists. After a kill it may still exist as a zombie (in a container whose first
process reaps none), and the stage would stay blocked; `release_dead` removes such entries under DVC's own guard.
"""

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from dagster_dvc.project import DvcProject

FORGOTTEN_SECONDS = 24 * 3600.0
"""A note of another machine that nobody has written to for so long is of a run that was lost with it."""

SILENT_SECONDS = 120.0
"""A launcher counts up every five seconds; the clocks of two hosts may differ, and a share may be slow."""


def holders(project: DvcProject) -> dict[str, int]:
    """Stage -> pid of the living DVC process that holds its outputs, however it was started."""
    held = _read(_file(project)).get("write", {})
    if not held:
        return {}
    from dagster_dvc.supervise import is_alive  # here: mostly nobody holds anything

    pids = {path: info.get("pid") for path, info in held.items() if isinstance(info, dict)}
    found = {}
    for stage in project.stages.values():
        for out in stage.outs:
            pid = pids.get(str(project.root / out.path))
            if pid and is_alive(pid):
                found[stage.name] = pid
    return found


def release_dead(project: DvcProject) -> int:
    """Remove the entries of processes that are gone; returns how many. Does nothing while DVC edits the file.

    An entry has no host. While a run is noted as another host's, none is removed: whether its process lives cannot be
    asked from here.
    """
    if not _dead(_read(_file(project))) or elsewhere(project):
        return 0
    with _guarded(project) as mine:
        if not mine:
            return 0
        held = _read(_file(project))
        dead = _dead(held)
        write = {path: info for path, info in held.get("write", {}).items() if info.get("pid") not in dead}
        read = {
            path: kept
            for path, infos in held.get("read", {}).items()
            if (kept := [info for info in infos if info.get("pid") not in dead])
        }
        _file(project).write_text(json.dumps({"write": write, "read": read}), encoding="utf-8")
        return len(dead)


def elsewhere(project: DvcProject) -> dict[str, dict[str, Any]]:
    """Stages that another host is noted as running: pid, since when (seconds since the epoch) and a line of each.

    A note of `dagster_dvc.repro` counts for a day after it was last written; one of a launcher, which counts up in
    ``.work/<stage>/owner.json``, for two minutes.
    """
    return {**_launched(project), **_noted(project)}


def _this_host() -> str:
    import socket  # here: mostly nothing runs, and nobody asks

    return socket.gethostname()


def _noted(project: DvcProject) -> dict[str, dict[str, Any]]:
    found = {}
    for note in (project.scratch / "running").glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            facts = json.loads(note.read_text(encoding="utf-8"))
            host = facts.get("host", _this_host())
            if host != _this_host() and time.time() - note.stat().st_mtime < FORGOTTEN_SECONDS:
                found[facts["stage"]] = {**facts, "line": f"on {host}: {facts['line']}"}
    return found


def _launched(project: DvcProject) -> dict[str, dict[str, Any]]:
    found = {}
    for note in (project.root / ".work").glob("*/owner.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            facts = json.loads(note.read_text(encoding="utf-8"))
            host, since = facts["host"], datetime.fromisoformat(facts["since"]).timestamp()
            if host != _this_host() and time.time() - note.stat().st_mtime < SILENT_SECONDS:
                of = f" of {facts['user']}" if facts.get("user") else ""
                line = f"on {host}{of}; wait for it, or stop it there"
                found[note.parent.name] = {"stage": note.parent.name, "pid": facts["pid"], "since": since, "line": line}
    return found


def _file(project: DvcProject) -> Path:
    return project.root / ".dvc" / "tmp" / "rwlock"


def _read(file: Path) -> dict[str, Any]:
    try:
        held = json.loads(file.read_text(encoding="utf-8") or "{}")
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def _dead(held: dict[str, Any]) -> set[int]:
    infos = [*held.get("write", {}).values(), *(info for infos in held.get("read", {}).values() for info in infos)]
    if not infos:
        return set()
    from dagster_dvc.supervise import is_alive

    pids = {info["pid"] for info in infos if isinstance(info, dict) and isinstance(info.get("pid"), int)}
    return {pid for pid in pids if not is_alive(pid)}


@contextlib.contextmanager
def _guarded(project: DvcProject) -> Iterator[bool]:
    """DVC's guard of the file (zc.lockfile: a flock); False when somebody has it."""
    with _file(project).with_name("rwlock.lock").open("a") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(guard, fcntl.LOCK_UN)
