"""The starter's side of the supervisor: if the supervisor itself is killed, what it looked after is ended from here."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from dagster_dvc.supervise import PROC, descendants

LOOK_EVERY_SECONDS = 0.5


class Guard(threading.Thread):
    """Remembers the processes below a supervisor, and ends them when it dies by a signal."""

    def __init__(self, supervisor: subprocess.Popen[str], grace: float) -> None:
        super().__init__(daemon=True, name=f"guard-{supervisor.pid}")
        self._supervisor = supervisor
        self._grace = grace

    def run(self) -> None:
        """Look every half second until the supervisor has ended."""
        known: dict[int, str] = {}
        while self._supervisor.poll() is None:
            if PROC.is_dir():
                known = {pid: _born(pid) for pid in descendants(self._supervisor.pid)} or known
            time.sleep(LOOK_EVERY_SECONDS)
        if self._supervisor.returncode < 0:
            end(known, self._grace)


def end(known: dict[int, str], grace: float) -> None:
    """SIGINT, after `grace` SIGTERM, after a third of it SIGKILL, to these processes and all below them."""
    known = {**known, **{below: _born(below) for pid in known for below in descendants(pid)}}
    for number, seconds in ((signal.SIGINT, grace), (signal.SIGTERM, grace / 3), (signal.SIGKILL, 1.0)):
        for pid, born in known.items():
            if born and _born(pid) == born:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            if not any(born and _born(pid) == born for pid, born in known.items()):
                return
            time.sleep(0.1)


def _born(pid: int) -> str:
    """When a process began, as the system writes it: a number that is used again has another. Empty once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
