"""Nothing outlives the supervisor: stubborn processes, sessions of their own, killed starters."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dagster_dvc import supervise

SUPERVISE = [sys.executable, "-P", supervise.__file__]
HIDE = ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
"""Runs a command where there is no /proc, as on a system that has none; needs root."""
CAN_HIDE = shutil.which("unshare") is not None and not subprocess.run([*HIDE, "true"], capture_output=True).returncode
STUBBORN = """
import os, signal, subprocess, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
if len(sys.argv) > 1:
    subprocess.Popen([sys.executable, __file__], start_new_session=True)
print(os.getpid(), flush=True)
time.sleep(60)
"""


def start(
    tmp_path: Path, code: str, *words: str, grace: str = "0.2", before: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(code)
    return subprocess.Popen(
        [*before, *SUPERVISE, grace, sys.executable, str(script), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def pids(process: subprocess.Popen[str], count: int) -> list[int]:
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(count)]


def gone(found: list[int], seconds: float = 30) -> bool:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if not any(alive(pid) for pid in found):
            return True
        time.sleep(0.05)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def finish(process: subprocess.Popen[str]) -> int:
    status = process.wait(60)
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()
    return status


def test_the_status_of_the_command_is_passed_on(tmp_path: Path) -> None:
    assert finish(start(tmp_path, "import sys; sys.exit(7)")) == 7


@pytest.mark.parametrize("how", ["life line", "SIGTERM", "SIGINT"])
def test_a_stop_ends_even_workers_that_ignore_signals_in_their_own_session(tmp_path: Path, how: str) -> None:
    process = start(tmp_path, STUBBORN, "with worker")
    found = pids(process, 2)
    if how == "life line":
        assert process.stdin is not None
        process.stdin.close()
    else:
        process.send_signal(getattr(signal, how))
    assert gone(found)
    assert finish(process) == 130


def test_a_killed_starter_closes_the_life_line(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(STUBBORN)
    starter = tmp_path / "starter.py"
    command = [*SUPERVISE, "0.5", sys.executable, str(script), "with worker"]
    starter.write_text(
        f"import subprocess, time\np = subprocess.Popen({command!r}, stdin=subprocess.PIPE)\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, str(starter)], stdout=subprocess.PIPE, text=True)
    found = pids(process, 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert gone(found)
    assert process.stdout is not None
    process.stdout.close()


def test_the_first_signal_gives_time_to_save(tmp_path: Path) -> None:
    saves = (
        "import pathlib, signal, sys, time\n"
        f"saved = pathlib.Path({str(tmp_path / 'saved')!r})\n"
        "signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.5), saved.touch(), sys.exit(3)))\n"
        "print(1, flush=True)\ntime.sleep(60)"
    )
    process = start(tmp_path, saves, grace="5")
    pids(process, 1)
    process.send_signal(signal.SIGTERM)
    assert finish(process) == 130
    assert (tmp_path / "saved").exists()


def test_what_a_command_leaves_behind_is_ended_with_it(tmp_path: Path) -> None:
    leaves = STUBBORN.replace("time.sleep(60)", "time.sleep(60 if len(sys.argv) == 1 else 0.3)")
    process = start(tmp_path, leaves, "with worker")
    found = pids(process, 2)
    assert finish(process) == 0
    assert gone(found)


@pytest.mark.skipif(not CAN_HIDE, reason="needs root to hide /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_works_where_the_system_tells_no_processes(tmp_path: Path, number: signal.Signals) -> None:
    saves = (
        "import pathlib, signal, sys, time\n"
        f"saved = pathlib.Path({str(tmp_path / 'saved')!r})\n"
        "signal.signal(signal.SIGINT, lambda *_: (saved.touch(), sys.exit(3)))\n"
        "print(__import__('os').getpid(), flush=True)\ntime.sleep(60)"
    )
    process = start(tmp_path, saves, grace="5", before=tuple(HIDE))
    found = pids(process, 1)
    process.send_signal(number)
    assert finish(process) == 130
    assert (tmp_path / "saved").exists() and gone(found)


@pytest.mark.skipif(not CAN_HIDE, reason="needs root to hide /proc")
def test_what_ignores_signals_is_ended_there_too(tmp_path: Path) -> None:
    process = start(tmp_path, STUBBORN, before=tuple(HIDE))
    found = pids(process, 1)
    assert process.stdin is not None
    process.stdin.close()
    assert gone(found)
    assert finish(process) == 130


def test_a_process_is_known_by_its_number_and_its_beginning() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = supervise.born(process.pid)
    assert supervise.is_alive(process.pid) and began is not None and abs(time.time() - began) < 600
    assert process.pid in supervise.descendants(os.getpid())
    process.kill()
    assert gone([process.pid]) and supervise.born(process.pid) is None  # a zombie until it is waited for
    assert process.pid not in supervise.descendants(os.getpid())
    process.communicate()
    assert not supervise.is_alive(process.pid)
