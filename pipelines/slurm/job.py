"""What runs in a job's batch step: starts the ranks, hears Slurm's warnings, puts the job back into the queue.

``python -m pipelines.slurm.job <most restarts> <warning seconds> <module> <function> …``. Slurm warns in four ways:
USR1, before the time is over; SIGTERM to the ranks alone, when a job of higher priority takes the nodes and leaves some
time; SIGTERM to everything, of scancel; and our own launcher's USR2. After the first two the ranks save and the job
goes back into the queue: a job that merely ended early would count as finished.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pipelines.handed_over import newest_state
from pipelines.slurm import queue
from pipelines.slurm.rank import LOST, lost_notes
from pipelines.stage import ANEW, STOPPED, STOPPED_NOTE, StageError, write_json

CANCEL = "USR2"
AGAIN_AFTER_LOSS = 5
"""How often in a row a job goes back into the queue because a process was cut off, without having saved a step."""
LEAVE_SECONDS = 30.0
"""How long ``srun`` may take to notice, after a rank has said that another is cut off."""


class Batch:
    """One start of a job. ``heard`` are the signals that came, in order."""

    def __init__(self, words: Sequence[str], most_restarts: int, warning_seconds: float) -> None:
        self.words, self.most_restarts, self.warning_seconds = words, most_restarts, warning_seconds
        self.number = os.environ["SLURM_JOB_ID"]
        self.restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self.folder = Path(os.environ["REEL_JOB_FOLDER"])
        self.stopped = self.folder.parent / STOPPED_NOTE
        self.heard: list[signal.Signals] = []

    # ---- the ranks ----

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        if self.restarts:  # by force begins once
            environment.pop(ANEW, None)
        environment["MASTER_ADDR"] = _address(environment.get("SLURMD_NODENAME", ""))
        environment["MASTER_PORT"] = str(_free_port())
        return environment

    def run(self) -> int:
        """Start the ranks and wait for them; returns srun's exit code, the highest of theirs."""
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, lambda got, _frame: self.heard.append(signal.Signals(got)))
        for note in [self.stopped, self.folder / f"{self.number}.end.json", *lost_notes(self.folder, self.number)]:
            note.unlink(missing_ok=True)
        command = [sys.executable, "-P", "-m", "pipelines.slurm.rank", *self.words]
        ranks = subprocess.Popen(["srun", "--kill-on-bad-exit=1", *command], env=self._environment())
        passed, lost_at, warn_at = 0, None, self._warn_at()
        while ranks.poll() is None:
            if not self.heard and time.time() >= warn_at:  # the signal came before anybody could hear it
                self.heard.append(signal.SIGUSR1)
            if len(self.heard) > passed:
                passed = len(self.heard)
                self._pass_on()
            if lost_at is None and lost_notes(self.folder, self.number):
                lost_at = time.monotonic()
            if lost_at is not None and time.monotonic() - lost_at > LEAVE_SECONDS:
                ranks.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                ranks.wait(0.25)
        return ranks.returncode if ranks.returncode >= 0 else 128 - ranks.returncode

    def _warn_at(self) -> float:
        """When the ranks must be asked to save, in seconds since the epoch; never for a job without a limit."""
        with contextlib.suppress(StageError, ValueError):
            end = (queue.show(self.number) or {}).get("EndTime", "")
            return datetime.fromisoformat(end).timestamp() - self.warning_seconds
        return math.inf

    def _pass_on(self) -> None:
        """Ask the ranks to save; what Slurm itself sends everybody they have heard already."""
        if self.heard[-1] != signal.SIGTERM:
            print(f"job {self.number}: {self.heard[-1].name}: asks the stage to save", flush=True)
            queue.ask(["scancel", "--signal=TERM", self.number])

    # ---- the end ----

    def end(self, code: int) -> int:
        """Back into the queue, or the last word: the exit code, noted for the launcher."""
        if code and self._is_back():
            print(f"job {self.number}: Slurm itself has put it back into the queue", flush=True)
            return code
        is_saved = code == STOPPED or (code == 0 and self.stopped.is_file())  # 143: a rank that was not yet under way
        if is_saved and signal.SIGUSR2 not in self.heard and self._is_wanted():
            return self._again("saved; goes back into the queue and on from there")
        told = lost_notes(self.folder, self.number)
        if code in (LOST, 128 + signal.SIGKILL) and told and self._may_lose_again() and self._is_wanted():
            return self._again(told[0].read_text(encoding="utf-8"))
        code = STOPPED if is_saved else code
        return self._last_word(code, "" if code != LOST or not told else told[0].read_text(encoding="utf-8"))

    def _last_word(self, code: int, why: str) -> int:
        write_json(self.folder / f"{self.number}.end.json", {"code": code, "why": why, "restarts": self.restarts})
        return code

    def _is_wanted(self) -> bool:
        """Whether Slurm has not been told to end this job: a cancelled one completes, a preempted one runs."""
        try:
            job = queue.job(self.number)
        except StageError:
            return True
        return job is not None and job.state == "RUNNING"

    def _is_back(self) -> bool:
        """Whether Slurm has requeued it already: a node failed, or it was preempted without grace."""
        with contextlib.suppress(StageError, ValueError):
            return int((queue.show(self.number) or {}).get("Restarts", "0")) > self.restarts
        return False

    def _may_lose_again(self) -> bool:
        """Whether the last starts of this job were not all lost at the same place."""
        file, saved = self.folder / f"{self.number}.losses", newest_state(self.folder.parent)
        before = file.read_text(encoding="utf-8").split() if file.is_file() else ["0", ""]
        count = int(before[0]) + 1 if before[1:] == [saved] else 1
        file.write_text(f"{count} {saved}", encoding="utf-8")
        return count < AGAIN_AFTER_LOSS

    def _again(self, why: str) -> int:
        if self.restarts >= self.most_restarts:
            return self._last_word(STOPPED, f"job {self.number} was started {self.restarts + 1} times (most_restarts)")
        print(f"job {self.number}: {why}", flush=True)
        done = queue.ask(["scontrol", "requeue", self.number])
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            return self._last_word(STOPPED, f"job {self.number} cannot go back into the queue: {said}")
        time.sleep(queue.PATIENCE_SECONDS)  # Slurm ends this step; the job is pending by then
        return STOPPED


def _address(node: str) -> str:
    """Where the other nodes reach this one: as Slurm itself does, else by its name."""
    with contextlib.suppress(StageError):
        done = queue.ask(["scontrol", "show", "node", "-o", node])
        found = queue.read_facts(done.stdout).get("NodeAddr", "") if done.returncode == 0 else ""
        if found:
            return found
    return socket.gethostname()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def main(argv: Sequence[str]) -> int:
    """Run the stage in this job; returns the exit code that Slurm records."""
    batch = Batch(argv[2:], int(argv[0]), float(argv[1]))
    return batch.end(batch.run())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
