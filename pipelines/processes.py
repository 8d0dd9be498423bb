"""Processes of a stage: started, followed, stopped; none is left behind.

Linux does the exact thing (a parent-death signal, a subreaper); elsewhere polling does it. psutil asks every system for
its processes; where none are told (a Linux with /proc hidden), a stage's session is signalled as a group.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from pipelines import machine
from pipelines.stage import STOPPED

GRACE_SECONDS = machine.grace_seconds()
"""Time between asking a process to stop (it saves) and ending it."""
LAUNCHER = "REEL_LAUNCHER"
"""The variable that tells a stage's processes the launcher's process id: torchrun may stand between."""
STARTER = "DVC_REPRO_STARTER"
"""Process id, and when it began, of what started a supervised ``dvc repro``."""
SHORT_WITH_FORCE = re.compile("-[fismpPRkqv]*f[fismpPRkqv]*")
"""Short options of ``dvc repro`` in one word, ``-f`` among them; none of these takes a value."""
UNTOLD = (psutil.Error, OSError)
"""What psutil raises where a process is gone, not ours to see, or the system tells nothing."""
SAY_EVERY_SECONDS = 10.0
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
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
    """All processes below ``root``, whatever session they moved to."""
    try:
        below = psutil.Process(root).children(recursive=True)
    except UNTOLD:
        return []
    return [process.pid for process in below if is_alive(process.pid)]


def _starters() -> list[int]:
    """The processes that must live for this one to go on: the parent and, above shells, whoever runs DVC."""
    chain = []
    try:
        for process in psutil.Process().parents()[:4]:
            if process.pid <= 1:
                break
            chain.append(process.pid)
            if "dvc" in " ".join(process.cmdline()):
                return chain
    except UNTOLD:
        return chain[:1] or [os.getppid()]
    return chain[:1]


def is_forced() -> bool:
    """Whether this stage runs under a ``dvc repro`` (or ``dvc exp run``) with ``--force``, whoever started that.

    DVC tells its stages nothing of it; its command line does.
    """
    lines: list[list[str]] = []
    with contextlib.suppress(*UNTOLD):
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
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
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


def _send(number: signal.Signals, session: int = 0) -> None:
    """To every process below this one; where the system does not tell them, to the session of the one started last."""
    for pid in descendants(os.getpid()) or ([-session] if session else []):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def end_descendants(grace: float, session: int = 0, say: Callable[[str], None] = lambda text: None) -> None:
    """SIGTERM, then after ``grace`` seconds SIGKILL, to everything below this process; says how far it is.

    Args:
        session: process id of the command that was started in a session of its own and is not waited for, 0 for none.
        say: is told about every ten seconds, and before the SIGKILL.
    """

    def left() -> bool:
        return bool(descendants(os.getpid())) or (session > 0 and is_alive(session))

    began = said = time.monotonic()
    for number, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, 2.0)):
        if not left():
            return
        if number == signal.SIGKILL:
            say(f"did not end within {grace:g} s; is ended now")
        _send(number, session)
        until = time.monotonic() + wait
        while left() and time.monotonic() < until:
            if number == signal.SIGTERM and time.monotonic() - said >= SAY_EVERY_SECONDS:
                said = time.monotonic()
                say(f"still saving, {said - began:.0f} of at most {grace:g} s")
            time.sleep(0.05)


def _teller(stage: str) -> Callable[[str], None]:
    """Prints a line of the stage; a terminal that is gone stops nothing."""

    def say(text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(f"{stage}: {text}", flush=True)

    return say


def listen(stopping: threading.Event) -> None:
    """From now on a signal to stop only sets the event."""
    for number in STOPS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # ignored by `nohup dvc repro &`
            signal.signal(number, lambda *_: stopping.set())


def listen_for_hangup(hung_up: threading.Event) -> None:
    """From now on a terminal that goes away only sets the event."""
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: hung_up.set())


def left_alone() -> Callable[[], bool]:
    """A function that says whether whoever wanted this stage is gone: DVC, or who started DVC (:data:`STARTER`).

    A supervisor stops what its dead starter has left; a signal alone does not tell that from being asked to stop.
    """
    starters = _starters()
    pid, _, since = os.environ.get(STARTER, "").partition(" ")

    def is_left() -> bool:
        if not all(is_alive(starter) for starter in starters):
            return True
        return pid.isdecimal() and not is_same(int(pid), since)

    return is_left


def is_same(pid: int, since: str) -> bool:
    """Whether the process of this number is alive, and the one that began then."""
    try:
        return is_alive(pid) and f"{psutil.Process(pid).create_time():.2f}" == since
    except UNTOLD:
        return is_alive(pid)


@contextlib.contextmanager
def stop_sets(stopping: threading.Event) -> Iterator[None]:
    """Inside, a signal to stop only sets the event; what is started inside may listen otherwise."""
    before = {number: signal.getsignal(number) for number in STOPS}
    listen(stopping)
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


def supervise(
    command: list[str], environment: dict[str, str], locks: tuple[int, ...], look: Callable[[], None]
) -> tuple[int, bool]:
    """Run the command to its end; on a signal, or when whoever started us is gone, stop everything below.

    ``look`` is called about four times a second meanwhile. Returns the exit code, and whether it was asked to stop.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    starters = _starters()
    stopping = threading.Event()
    listen(stopping)
    child = subprocess.Popen(
        command,
        # torchrun's own patience is 30 s; a second more than ours, so that a rank can end what is below it first
        env={**environment, LAUNCHER: str(os.getpid()), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(int(GRACE_SECONDS) + 1)},
        pass_fds=locks,
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
    say = _teller(environment.get("REEL_STAGE", "stage"))
    if asked and child.poll() is None:
        say(f"asked to stop; it has {GRACE_SECONDS:g} s to save (REEL_GRACE_SECONDS)")
    watcher = threading.Thread(target=child.wait, daemon=True)  # one that has ended is no zombie then
    watcher.start()
    end_descendants(GRACE_SECONDS if asked else 0.5, 0 if child.poll() is not None else child.pid, say)
    code = child.wait()
    return code if code >= 0 else 128 - code, asked
