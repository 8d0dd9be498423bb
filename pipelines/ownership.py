"""One writer per output: a lock that lives exactly as long as a process of the stage does.

The lock is a ``flock`` whose descriptor every process of the stage inherits. It frees itself when the last of them is
gone, however it went, and never before: a killed launcher whose trainer lives on still owns the output. On a disk that
several machines share, a flock may not reach the others: there the owner also counts up in ``owner.json``, and whoever
finds another host's name in it looks on for a while before he takes it to be gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.machine import grace_seconds
from pipelines.stage import StageError

BEAT_SECONDS, LOOK_ON_SECONDS = 5.0, 75.0
"""Between two signs of life of an owner; how long another host looks for one, at least. NFS may show what a folder held
up to 60 s ago (``acdirmax``)."""
BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Of a kernel that runs: containers of one machine have names of their own, and one kernel, whose flock reaches all."""


def _facts(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _describe(owner: dict[str, Any]) -> str:
    if {"pid", "host", "since"} <= owner.keys():
        of = f" of {owner['user']}" if owner.get("user") else ""
        return f"process {owner['pid']}{of} on {owner['host']} since {owner['since']}"
    return "another process"


def _user() -> str | None:
    with contextlib.suppress(KeyError, OSError):  # a container may run as a number that has no name
        return getpass.getuser()
    return None


def _boot() -> str | None:
    with contextlib.suppress(OSError):
        return BOOT.read_text(encoding="utf-8").strip()
    return None


def _refuse_other_host(stage: str, path: Path) -> None:
    """Wait whether an owner on another host shows life.

    Raises:
        StageError: it does.
    """
    owner = _facts(path)
    if owner.get("host") in (None, socket.gethostname()) or (owner.get("boot") and owner["boot"] == _boot()):
        return  # the flock was free, so it is gone
    print(f"{stage}: was last run by {_describe(owner)}; looks whether that goes on", flush=True)
    until = time.monotonic() + max(LOOK_ON_SECONDS, 2 * grace_seconds())
    while time.monotonic() < until:
        if _facts(path).get("beats", 0) != owner.get("beats", 0):
            raise StageError(
                f"its output is being written by {_describe(owner)}; wait for it, or stop it there: "
                f"kill -INT {owner.get('pid')}"
            )
        if not path.is_file():
            return
        time.sleep(BEAT_SECONDS / 5)


@contextlib.contextmanager
def owned(stage: str, work: Path) -> Iterator[int]:
    """Own the stage's output; yields the descriptor that its processes must inherit.

    Raises:
        StageError: somebody owns it, with pid, host and since when.
    """
    work.mkdir(parents=True, exist_ok=True)
    note = work / "owner.json"
    descriptor = os.open(work / "owner.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _describe(_facts(note))
            raise StageError(f"its output is being written by {owner}; wait for it, or stop that process.") from None
        _refuse_other_host(stage, note)
        facts = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "user": _user(),
            "boot": _boot(),
            "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
            "stage": stage,
        }
        with _alive(stage, note, facts):
            yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _alive(stage: str, note: Path, facts: dict[str, Any]) -> Iterator[None]:
    """Inside, the note says who owns the output, and counts up; it is gone afterwards. A full disk stops nothing."""
    ended = threading.Event()

    def beat(count: int) -> bool:
        partial = note.with_name(f".{note.name}.partial-{os.getpid()}")
        try:
            partial.write_text(json.dumps({**facts, "beats": count}), encoding="utf-8")
            partial.replace(note)
        except OSError as error:
            print(f"{stage}: warning: {note} cannot be written ({error.strerror or error})", flush=True)
            return False
        return True

    def go_on() -> None:
        count = 1
        while not ended.wait(BEAT_SECONDS) and beat(count + 1):
            count += 1

    if beat(1):
        thread = threading.Thread(target=go_on, daemon=True, name="owner")
        thread.start()
    try:
        yield
    finally:
        ended.set()
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)
