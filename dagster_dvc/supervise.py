"""Run a command so that nothing of it outlives its starter. Knows psutil and the standard library only.

``supervise.py <grace seconds> <command> ...`` runs the command in a session of its own and exits with its status.
Standard input is the life line: when it closes (the starter asked, or is gone), or on SIGINT or SIGTERM, the command's
session gets SIGINT, after `grace` seconds every descendant in whatever session SIGTERM, after a third of that SIGKILL.
SIGINT comes first because DVC is built for it: the stage's command ends, DVC reports the failure, releases its locks. A
launcher that put its workers into sessions of their own passes the first signal on itself (one signal, not two, so that
they can save). Descendants that lose their parent are inherited here (Linux subreaper) and always count. Where the
system does not tell its processes (a Linux with /proc hidden), the session is signalled as a group.
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

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
UNTOLD = (psutil.Error, OSError)
"""What psutil raises where a process is gone, not ours to see, or the system tells nothing."""


def descendants(pid: int) -> list[int]:
    """All living processes below `pid`, whatever their session; zombies do not count."""
    try:
        below = psutil.Process(pid).children(recursive=True)
    except UNTOLD:
        return []
    return [process.pid for process in below if is_alive(process.pid)]


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except UNTOLD:
        return _exists(pid)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def born(pid: int) -> float | None:
    """When a living process began (seconds since the epoch); one that uses its number again has another time."""
    try:
        process = psutil.Process(pid)
        return process.create_time() if process.status() != psutil.STATUS_ZOMBIE else None
    except UNTOLD:
        return None


def told() -> bool:
    """Whether the system tells its processes."""
    try:
        return psutil.Process().create_time() > 0
    except UNTOLD:
        return False


def main() -> int:
    """Run the command given on the command line; the exit status is the command's, 130 after a stop."""
    grace, command = float(sys.argv[1]), sys.argv[2:]
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == "linux" else _fresh_signals,
    )
    threading.Thread(target=_watch_life_line, args=(stop,), daemon=True).start()
    while child.poll() is None and not stop.is_set():
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.2)
    stopped = child.poll() is None
    _end(child, grace)
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


def _end(child: subprocess.Popen[bytes], grace: float) -> None:
    """Ask, then insist, until nothing below this process is left."""
    is_told = told()

    def alive() -> list[int]:
        if is_told:
            return descendants(os.getpid())
        return [-child.pid] if child.poll() is None or _exists(-child.pid) else []

    for number, seconds in ((signal.SIGINT, grace), (signal.SIGTERM, grace / 3), (signal.SIGKILL, 3.0)):
        found = alive()
        if not found:
            return
        for pid in _first_to_hear(found, child.pid) if number == signal.SIGINT and is_told else found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)  # a negative number is a whole session
        _wait_until(lambda: child.poll() is not None and not alive(), seconds)


def _first_to_hear(alive: list[int], session: int) -> list[int]:
    """The command's own session, and what lost the parent that would have passed the signal on."""
    heard = []
    for pid in alive:
        with contextlib.suppress(*UNTOLD):
            if os.getsid(pid) == session or psutil.Process(pid).ppid() == os.getpid():
                heard.append(pid)
    return heard


def _wait_until(done: Callable[[], bool], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and not done():
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
