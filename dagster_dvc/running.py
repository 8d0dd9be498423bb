"""Which stages run now, and how far they are: from the notes of `dagster_dvc.repro` and DVC's own lock."""

import contextlib
import json
import socket

from dagster_dvc.locks import elsewhere, holders
from dagster_dvc.project import DvcProject


def running(project: DvcProject) -> dict[str, dict[str, object]]:
    """Stages being run now, by `dagster_dvc.repro` or a plain `dvc repro`, here or on another host of the same disk.

    Of each the pid of its supervisor, since when (seconds since the epoch), and the last line it printed.
    """
    held, notes = holders(project), sorted((project.scratch / "running").glob("*.json"))
    found: dict[str, dict[str, object]] = {**elsewhere(project)}
    if not held and not notes:
        return found
    from dagster_dvc.supervise import born, is_alive  # here: mostly nothing runs

    for stage, pid in held.items():
        found[stage] = {"stage": stage, "pid": pid, "since": born(pid), "line": "by `dvc repro`"}
    for note in notes:
        with contextlib.suppress(OSError, ValueError):
            facts = json.loads(note.read_text(encoding="utf-8"))
            if facts.get("host", socket.gethostname()) == socket.gethostname() and is_alive(facts["pid"]):
                found[facts["stage"]] = facts
    return found
