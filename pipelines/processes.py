"""Processes of a stage: started, followed, stopped; none is left behind.

Linux does the exact thing (a parent-death signal, a subreaper, ``/proc``); elsewhere polling does it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from pipelines.stage import STOPPED

GRACE_SECONDS = float(os.environ.get("REEL_GRACE_SECONDS", "8"))
"""Time between asking a process to stop (it saves) and ending it."""
LAUNCHER = "REEL_LAUNCHER"
"""The variable that tells a stage's processes the launcher's process id: torchrun may stand between."""
SHORT_WITH_FORCE = re.compile("-[fismpPRkqv]*f[fismpPRkqv]*")
"""Short options of ``dvc repro`` in one word, ``-f`` among them; none of these takes a value."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def follow_parent() -> Callable[[], bool]:
    """Stop this process when its parent or the launcher is gone; returns a function that says whether one is.

    The kernel sends a SIGTERM when the parent dies; what is still here when the grace time has passed is ended,
    with everything below it: a process that hangs in a collective hears no signal, and torchrun waits for it.
    """
    parent, launcher = os.getppid(), int(os.environ.get(LAUNCHER, os.getppid()))
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    def orphaned() -> bool:
        return os.getppid() != parent or not is_alive(launcher)

    def watch() -> None:
        while not orphaned():
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)  # where the kernel sends nothing
        time.sleep(GRACE_SECONDS)
        _send(signal.SIGKILL)
        os._exit(STOPPED)

    threading.Thread(target=watch, daemon=True, name="follow-parent").start()
    return orphaned


def leave_group() -> None:
    """Close the processes' communication, where there is any: gloo's threads abort an exit that leaves it open."""
    processes = sys.modules.get("torch.distributed")
    if processes is not None and processes.is_available() and processes.is_initialized():
        processes.destroy_process_group()


def descendants(root: int) -> list[int]:
    """All processes below ``root``, whatever session they moved to (Linux: read from /proc)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = entry.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _starters() -> list[int]:
    """The processes that must live for this one to go on: the parent and, above shells, whoever runs DVC."""
    chain, pid = [], os.getppid()
    for _ in range(4):
        if pid <= 1:
            break
        chain.append(pid)
        words = Path(f"/proc/{pid}/cmdline").read_bytes() if Path(f"/proc/{pid}/cmdline").exists() else b""
        if b"dvc" in words:
            return chain
        stat = Path(f"/proc/{pid}/stat")
        pid = int(stat.read_text().rpartition(")")[2].split()[1]) if stat.exists() else 0
    return chain[:1]


def is_forced() -> bool:
    """Whether this stage runs under a ``dvc repro`` (or ``dvc exp run``) with ``--force``, whoever started that.

    DVC tells its stages nothing of it; its command line does.
    """
    lines: list[list[str]] = []
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process().parents():
            lines.append(process.cmdline())
    return any(asks_for_force(words) for words in lines)


def asks_for_force(words: Sequence[str]) -> bool:
    """Whether a command line is one of DVC that reproduces stages by force: ``--force``, ``-f``, or ``-sf``."""
    named = next((at for at, word in enumerate(words) if Path(word).name in ("dvc", "dvc.exe")), None)
    if named is None or not {"repro", "exp"} & set(words[named:]):
        return False
    return any(word == "--force" or SHORT_WITH_FORCE.fullmatch(word) for word in words[named:])


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs here; one that has ended and was not waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def _send(number: signal.Signals) -> None:
    for pid in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def end_descendants(grace: float) -> None:
    """SIGTERM, then after ``grace`` seconds SIGKILL, to everything below this process."""
    for number, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, 2.0)):
        _send(number)
        until = time.monotonic() + wait
        while descendants(os.getpid()) and time.monotonic() < until:
            time.sleep(0.05)


def supervise(command: list[str], environment: dict[str, str], lock: int, look: Callable[[], None]) -> tuple[int, bool]:
    """Run the command to its end; on a signal, or when whoever started us is gone, stop everything below.

    ``look`` is called about four times a second meanwhile. Returns the exit code, and whether it was asked to stop.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    starters = _starters()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # ignored by `nohup dvc repro &`
            signal.signal(number, lambda *_: stopping.set())
    child = subprocess.Popen(
        command,
        # torchrun's own patience is 30 s; a second more than ours, so that a rank can end what is below it first
        env={**environment, LAUNCHER: str(os.getpid()), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(int(GRACE_SECONDS) + 1)},
        pass_fds=(lock,),
        start_new_session=True,
        preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
    )
    while child.poll() is None and not stopping.is_set():
        if not all(is_alive(pid) for pid in starters):
            stopping.set()
        look()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.25)
    asked = stopping.is_set()
    end_descendants(GRACE_SECONDS if asked else 0.5)
    code = child.wait()
    return code if code >= 0 else 128 - code, asked
