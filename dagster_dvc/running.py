"""Which stages run now, and how far they are: from the notes of `dagster_dvc.repro` and DVC's own lock."""

import contextlib
import json
import time

from dagster_dvc.locks import holders
from dagster_dvc.project import DvcProject

FORGOTTEN_SECONDS = 24 * 3600.0
"""A note of another machine that nobody has written to for so long is of a run that was lost with it."""


def running(project: DvcProject) -> dict[str, dict[str, object]]:
    """Stages being run now, by `dagster_dvc.repro` or a plain `dvc repro`.

    Of each the pid of its supervisor, since when (seconds since the epoch), and the last line it printed.
    """
    held, notes = holders(project), sorted((project.scratch / "running").glob("*.json"))
    if not held and not notes:
        return {}
    import socket  # here: mostly nothing runs

    from dagster_dvc.supervise import born, is_alive

    found: dict[str, dict[str, object]] = {}
    for stage, pid in held.items():
        found[stage] = {"stage": stage, "pid": pid, "since": born(pid), "line": "by `dvc repro`"}
    for note in notes:
        with contextlib.suppress(OSError, ValueError):
            facts = json.loads(note.read_text(encoding="utf-8"))
            host = facts.get("host", socket.gethostname())
            if host != socket.gethostname():  # whether its process lives cannot be asked from here
                if time.time() - note.stat().st_mtime < FORGOTTEN_SECONDS:
                    found[facts["stage"]] = {**facts, "line": f"on {host}: {facts['line']}"}
            elif is_alive(facts["pid"]):
                found[facts["stage"]] = facts
    return found
