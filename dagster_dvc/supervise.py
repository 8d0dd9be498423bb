"""Run a command so that nothing of it outlives its starter. Standard library only; started with ``python -S``.

``supervise.py <grace seconds> <command> ...`` runs the command in a session of its own and exits with its status.
Standard input is the life line: when it closes (the starter asked, or is gone), or on SIGINT or SIGTERM, the command's
session gets SIGINT, after `grace` seconds every descendant in whatever session SIGTERM, after a third of that SIGKILL.
SIGINT comes first because DVC is built for it: the stage's command ends, DVC reports the failure, releases its locks. A
launcher that put its workers into sessions of their own passes the first signal on itself (one signal, not two, so that
they can save). Descendants that lose their parent are inherited here (Linux subreaper) and always count; on a system
without /proc the session is signalled as a group.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
PROC = Path("/proc")


def descendants(pid: int) -> list[int]:
    """All living processes below `pid`, whatever their session; zombies do not count."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                children.setdefault(int(parent), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def main() -> int:
    """Run the command given on the command line; the exit status is the command's, 130 after a stop."""
    grace, command = float(sys.argv[1]), sys.argv[2:]
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    linux = sys.platform == "linux" and PROC.is_dir()
    if linux:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_parent if linux else _fresh_signals,
    )
    threading.Thread(target=_watch_life_line, args=(stop,), daemon=True).start()
    while child.poll() is None and not stop.is_set():
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.2)
    stopped = child.poll() is None
    _end(child, grace, linux)
    status = child.wait()
    return 130 if stopped else status if status >= 0 else 128 - status


def _watch_life_line(stop: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    stop.set()


def _fresh_signals() -> None:
    """A shell's ``&`` hands down an ignored SIGINT; a stage must be able to hear it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _die_with_parent() -> None:
    _fresh_signals()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _end(child: subprocess.Popen[bytes], grace: float, linux: bool) -> None:
    """Ask, then insist, until nothing below this process is left."""
    for number, seconds in ((signal.SIGINT, grace), (signal.SIGTERM, grace / 3), (signal.SIGKILL, 3.0)):
        alive = descendants(os.getpid()) if linux else [-child.pid] if child.poll() is None else []
        if not alive:
            return
        for pid in alive if number != signal.SIGINT or not linux else _first_to_hear(alive, child.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(-pid, number) if pid < 0 else os.kill(pid, number)
        _wait_until(lambda: child.poll() is not None and not (linux and descendants(os.getpid())), seconds)


def _first_to_hear(alive: list[int], session: int) -> list[int]:
    """The command's own session, and what lost the parent that would have passed the signal on."""
    heard = []
    for pid in alive:
        with contextlib.suppress(OSError, ValueError):
            fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session or int(fields[1]) == os.getpid():
                heard.append(pid)
    return heard


def _wait_until(done: Callable[[], bool], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and not done():
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
