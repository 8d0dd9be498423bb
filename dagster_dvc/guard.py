"""The starter's side of the supervisor: if the supervisor itself is killed, what it looked after is ended from here."""

import contextlib
import os
import signal
import subprocess
import threading
import time

from dagster_dvc.supervise import born, descendants

LOOK_EVERY_SECONDS = 0.5


class Guard(threading.Thread):
    """Remembers the processes below a supervisor, and ends them when it dies by a signal."""

    def __init__(self, supervisor: subprocess.Popen[str], grace: float) -> None:
        super().__init__(daemon=True, name=f"guard-{supervisor.pid}")
        self._supervisor = supervisor
        self._grace = grace

    def run(self) -> None:
        """Look every half second until the supervisor has ended."""
        known: dict[int, float | None] = {}
        while self._supervisor.poll() is None:
            known = {pid: born(pid) for pid in descendants(self._supervisor.pid)} or known
            time.sleep(LOOK_EVERY_SECONDS)
        if self._supervisor.returncode < 0:
            end(known, self._grace)


def end(known: dict[int, float | None], grace: float) -> None:
    """SIGINT, after `grace` SIGTERM, after a third of it SIGKILL, to these processes and all below them."""
    known = {**known, **{below: born(below) for pid in known for below in descendants(pid)}}
    for number, seconds in ((signal.SIGINT, grace), (signal.SIGTERM, grace / 3), (signal.SIGKILL, 1.0)):
        for pid, since in known.items():
            if since and born(pid) == since:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            if not any(since and born(pid) == since for pid, since in known.items()):
                return
            time.sleep(0.1)
