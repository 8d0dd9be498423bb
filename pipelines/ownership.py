"""One writer per output: a lock that lives exactly as long as a process of the stage does.

The lock is a ``flock`` whose descriptor every process of the stage inherits. It frees itself when the last of them is
gone, however it went, and never before: a killed launcher whose trainer lives on still owns the output.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from pipelines.stage import StageError


def _describe(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError):
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    return "another process"


@contextlib.contextmanager
def owned(stage: str, work: Path) -> Iterator[int]:
    """Own the stage's output; yields the descriptor that its processes must inherit.

    Raises:
        StageError: somebody owns it, with pid, host and since when.
    """
    work.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(work / "owner.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _describe(work / "owner.json")
            raise StageError(f"its output is being written by {owner}; wait for it, or stop that process.") from None
        facts = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
            "stage": stage,
        }
        (work / "owner.json").write_text(json.dumps(facts), encoding="utf-8")
        yield descriptor
    finally:
        os.close(descriptor)
