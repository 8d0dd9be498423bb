"""Run one stage through DVC, under the supervisor, and say what came of it. Used by Dagster and by the command line."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dagster_dvc import meta
from dagster_dvc.environment import GRACE, environment, grace_seconds
from dagster_dvc.guard import Guard
from dagster_dvc.locks import release_dead
from dagster_dvc.missing import wanted
from dagster_dvc.project import DvcProject, ProjectError
from dagster_dvc.supervise import born

Outcome = Literal["executed", "unchanged", "restored", "failed", "busy", "stopped"]
PHRASES: tuple[tuple[str, Outcome], ...] = (
    ("is cached - skipping run, checking out outputs", "restored"),
    ("didn't change, skipping", "unchanged"),
    ("Pulling data for", "restored"),
    ("Running stage", "executed"),
)
STARTER = "DVC_REPRO_STARTER"
"""Variable for the stage: this process and when it began. A stage whose work goes on elsewhere (a job of a cluster) can
tell being asked to stop from having lost its starter."""
BUSY = "is busy, it is being blocked by"
NOISE = re.compile(
    r"^(Running stage |> |Generating lock file|Updating lock file|Use `dvc push`"
    r"|To track the changes|\s*git add |To enable auto staging|\s*dvc config core.autostage|\s*$)"
)
TAIL = 40


@dataclass
class Result:
    """What one `dvc repro --single-item` did; `error` is the reason in a line or a few, empty on success."""

    stage: str
    outcome: Outcome
    seconds: float
    exit_code: int
    error: str = ""
    tail: list[str] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        """Whether the stage's outputs are now what dvc.lock says."""
        return self.outcome in {"executed", "unchanged", "restored"}


class Repro:
    """A running `dvc repro --single-item`. `stop` ends it and everything below it; `result` waits for the end."""

    def __init__(
        self,
        project: DvcProject,
        stage: str,
        *,
        grace: float | None = None,
        options: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.project = project
        self.stage = stage
        grace = grace_seconds() if grace is None else grace
        env = {**(env or {}), GRACE: f"{grace:g}"}  # who supervises further down waits as long
        env[STARTER] = f"{os.getpid()} {born(os.getpid()) or 0:.2f}"
        self._since = time.time()
        release_dead(project)
        dvc = [sys.executable, "-P", "-m", "dvc", "--wait-for-lock", "repro", "--single-item", *options, stage]
        supervisor = [sys.executable, "-P", str(Path(__file__).with_name("supervise.py")), str(grace)]
        self._process = subprocess.Popen(
            [*supervisor, *dvc],
            cwd=project.root,
            env=environment(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        Guard(self._process, grace).start()

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self._process.pid

    def stop(self) -> None:
        """Close the life line: the supervisor ends everything, first politely."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def wait(self, seconds: float) -> bool:
        """Wait for the end, at most so long; whether it came."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.poll() is not None

    def _end(self, on_line: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        self.stop()
        for raw in self._process.stdout:  # a full pipe would block what is still saving
            on_line(raw.rstrip())
        self._process.wait()

    def result(self, on_line: Callable[[str], None] = lambda line: None) -> Result:
        """Hand every output line to `on_line` until the end, then say what happened."""
        assert self._process.stdout is not None
        tail: deque[str] = deque(maxlen=TAIL)
        outcome: Outcome = "failed"
        busy = False
        with _noted(self.project, self.stage, self._process.pid, self._since, on_line) as note:
            try:
                for raw in self._process.stdout:
                    line = raw.rstrip().rpartition("\r")[2]
                    outcome = _outcome(line) or outcome
                    busy = busy or BUSY in line
                    tail.append(line)
                    note(line)
                    on_line(line)
                code = self._process.wait()
            except BaseException:  # an interrupt: everything below must be gone before anyone hears of it
                self._end(on_line)
                raise
            finally:
                self.stop()
                self._process.stdout.close()
        seconds = time.time() - self._since
        if code == 0 and outcome == "failed":
            said = next((line for line in reversed(tail) if line.strip()), "nothing")
            return Result(self.stage, outcome, seconds, code, f"DVC ended well without saying what it did: {said}")
        if code == 0:
            if outcome == "executed":
                try:
                    record_time(self.project, self.stage, seconds)
                except OSError as error:  # the work is done; a note less is no failure
                    on_line(f"WARNING: .work/times.json cannot be written ({error.strerror or error})")
            return Result(self.stage, outcome, seconds, 0, tail=list(tail))
        ended: Outcome = "stopped" if code == 130 else "busy" if busy else "failed"
        why = self._missing() if ended == "failed" else ""
        return Result(self.stage, ended, seconds, code, why or _reason(ended, list(tail)), list(tail))

    def _missing(self) -> str:
        """What the stage needs and is not there, which DVC would call `[Errno 2]`."""
        with contextlib.suppress(ProjectError):
            now = DvcProject(self.project.root)
            return "\n".join(wanted(now, now.stage(self.stage)))
        return ""


def _outcome(line: str) -> Outcome | None:
    return next((found for phrase, found in PHRASES if phrase in line), None)


def dvc(project: DvcProject, *words: str) -> subprocess.CompletedProcess[str]:
    """A short command of DVC in the project; what it says is kept, its exit status is for the caller to look at."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "dvc", "--wait-for-lock", *words],
        cwd=project.root,
        env=environment(),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def checkout(project: DvcProject, stage: str) -> bool:
    """Bring back what dvc.lock records of a stage's outputs, after a failure. False when nothing could be restored."""
    return dvc(project, "checkout", "--force", stage).returncode == 0


def record_time(project: DvcProject, stage: str, seconds: float) -> None:
    """Remember how long a stage took, in ``.work/times.json`` (the last five runs)."""
    import fcntl

    file = project.root / ".work" / "times.json"
    file.parent.mkdir(exist_ok=True)
    with file.open("a+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        known = _json(stream.read())
        known[stage] = [*known.get(stage, []), round(seconds, 1)][-5:]
        stream.truncate(0)
        stream.write(json.dumps(known, indent=1, sort_keys=True))


def recorded_seconds(project: DvcProject) -> dict[str, float]:
    """Stage -> seconds of its last run that really ran."""
    file = project.root / ".work" / "times.json"
    known = _json(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {stage: times[-1] for stage, times in known.items() if times}


def expected_seconds(project: DvcProject) -> dict[str, float]:
    """Stage -> seconds of its last run here, else what its ``meta.dagster.seconds`` says; absent without either."""
    return meta.stated_seconds(project.stages.values()) | recorded_seconds(project)


def _json(text: str) -> dict[str, Any]:
    try:
        return json.loads(text or "{}")
    except ValueError:
        return {}


@contextlib.contextmanager
def _noted(project: DvcProject, stage: str, pid: int, since: float, on_line: Callable[[str], None]):
    """Keep a note of the run and its last line, at most once a second, for others to read; gone at the end."""
    folder = project.scratch / "running"
    file = folder / f"{stage.replace('/', '_')}.{pid}.json"
    written, is_unwritable = 0.0, False

    def note(line: str) -> None:
        nonlocal written, is_unwritable
        if is_unwritable or time.time() - written < 1 or NOISE.match(line):
            return
        written = time.time()
        facts = {"stage": stage, "pid": pid, "host": socket.gethostname(), "since": since, "line": line}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(facts), encoding="utf-8")
            partial.replace(file)
        except OSError as error:  # others cannot see how far it is; it goes on all the same
            is_unwritable = True
            on_line(f"WARNING: {folder} cannot be written ({error.strerror or error}); `reel status` will not show it")

    note("started")
    try:
        yield note
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)


def _reason(outcome: Outcome, tail: list[str]) -> str:
    """The lines a person needs: who holds the stage, or what the command itself said last."""
    if outcome == "stopped":
        return "stopped before it finished; nothing was recorded"
    if outcome == "busy":
        holders = re.findall(r"\(PID (\d+)\): (.*)", "\n".join(tail))
        names = "; ".join(
            f"pid {pid} on {socket.gethostname()}{_since(int(pid))} ({cmd})" for pid, cmd in dict(holders).items()
        )
        return f"already being run by {names or 'another process'}; wait for it or stop it"
    said = [line for line in tail if not NOISE.match(line)]
    failed = next(
        (index for index, line in enumerate(said) if line.startswith("ERROR: failed to reproduce")), len(said)
    )
    own = said[:failed] if failed else said
    return "\n".join(own[-8:]) or "the command gave no reason"


def _since(pid: int) -> str:
    """`` since 2026-01-31 14:02:11``, or nothing where the process table does not say."""
    started = born(pid)
    return f" since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(started))}" if started else ""
