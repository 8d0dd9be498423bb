"""A stage's job from here: submitted once, followed, taken up again by whoever comes next, cancelled whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pipelines.processes import GRACE_SECONDS, left_alone, listen, listen_for_hangup
from pipelines.slurm import attempt, queue
from pipelines.slurm.job import CANCEL
from pipelines.slurm.log import Tail
from pipelines.slurm.submit import Work, account, submit, taken_up
from pipelines.stage import LEFT, STOPPED, StageError

LOOK_SECONDS = 0.5
"""Between two looks at the job's own files; the queue is asked every ``poll_seconds``."""
GONE_SECONDS = 60.0
"""How long a cancelled job may take to leave, besides the time it has to save: Slurm's KillWait is 30 s."""
REASONS = {
    "TIMEOUT": "its time was over before it had saved; raise slurm.warning_seconds or `time`",
    "OUT_OF_MEMORY": "it took more memory than `memory` gives it",
    "CANCELLED": "somebody cancelled it",
    "NODE_FAIL": "a node failed, and Slurm did not put it back into the queue",
    "DEADLINE": "it could not end before its deadline",
    "BOOT_FAIL": "its nodes did not start",
}


# ---- follow -------------------------------------------------------------------------------------------------------


class _Watch:
    """The job of one attempt, looked at again and again."""

    def __init__(self, work: Work, number: str) -> None:
        self.work, self.number = work, number
        self.tail = Tail(attempt.folder(work.stage) / f"{number}.log")
        self._asked, self._told, self._trouble = 0.0, "", ""

    def ended(self, every: float) -> bool:
        """Print what is new; whether the job is over. The queue is asked when ``every`` seconds have passed."""
        self.tail.show()
        if attempt.ended(self.work.stage, self.number) is not None:
            return True
        if time.monotonic() - self._asked < every:
            return False
        self._asked = time.monotonic()
        try:
            job = queue.job(self.number)
        except queue.Unanswered as error:  # the job does not need the queue; neither does waiting for it
            if str(error) != self._trouble:
                self._trouble = str(error)
                self.work.say(f"{error} The job is not touched by that; waits")
            return False
        told = job.told() if job is not None else ""
        if told != self._told and job is not None and job.is_live:
            self.work.say(told)
        self._told = told
        return job is None or not job.is_live


def _cancel(watch: _Watch) -> None:
    """Ask the job to save and end; then end it. Returns when it is gone, or says that it is not."""
    number, say = watch.number, watch.work.say
    say(f"asked to stop; job {number} has {GRACE_SECONDS:g} s to save (REEL_GRACE_SECONDS)")
    job = queue.job(number)
    if job is not None and job.state == "RUNNING":
        queue.ask(["scancel", "--batch", f"--signal={CANCEL}", number])
    else:
        queue.ask(["scancel", number])
    if not _wait(watch, GRACE_SECONDS):
        say(f"did not end within {GRACE_SECONDS:g} s; is ended now")
        queue.ask(["scancel", number])
    if not _wait(watch, GONE_SECONDS, whole=True):
        say(f"job {number} has not left the queue after {GONE_SECONDS:g} s; look at: squeue -j {number}")
    watch.tail.show()


def _wait(watch: _Watch, seconds: float, whole: bool = False) -> bool:
    """Until the job is over (``whole``: by the queue's own word, so that no process of it is left), at most so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if watch.ended(1.0) and not (whole and _is_live(watch.number)):
            return True
        time.sleep(LOOK_SECONDS)
    return False


def _is_live(number: str) -> bool:
    job = queue.job(number)
    return job is not None and job.is_live


def run(work: Work, lock: int, look: Callable[[], None]) -> tuple[int, bool]:
    """Have Slurm run the stage, to its end. Returns its exit code, and whether it was asked to stop.

    A signal to stop cancels the job. When whoever started this launcher is gone, or the terminal is, the job goes on
    and the launcher leaves it: the same command takes it up again.

    Raises:
        StageError: Slurm does not take it, does not answer, or ended it; what to do.
    """
    stopping, hung_up = threading.Event(), threading.Event()
    listen(stopping)
    listen_for_hangup(hung_up)
    is_left = left_alone()
    made = taken_up(work)
    if made is None:
        made = submit(work, lock)
        work.say(f"submitted as job {made.job}; log {attempt.folder(work.stage) / f'{made.job}.log'}")
    assert made.job is not None
    watch = _Watch(work, made.job)
    while not watch.ended(work.target.slurm.poll_seconds):
        look()
        if hung_up.is_set() or is_left():
            work.say(f"whoever started this is gone; job {made.job} goes on, and the same command takes it up again")
            return LEFT, False
        if stopping.wait(LOOK_SECONDS):
            time.sleep(LOOK_SECONDS)  # one that is dying closes its pipes before it is gone
            if is_left():  # a supervisor stops what its dead starter has left
                continue
            _cancel(watch)
            break
    watch.tail.show()
    code = _taken_in(work, made.job, stopping.is_set())
    return code, stopping.is_set()


def _taken_in(work: Work, number: str, asked: bool) -> int:
    """The exit code of a job that is over, with its accounting in the stage's record."""
    told = attempt.ended(work.stage, number)
    job = queue.job(number) if told is None else None
    account(work.stage, number)
    attempt.forget(work.stage)
    if told is not None:
        if told.get("why"):
            work.say(str(told["why"]))
        return int(told["code"])
    if asked:
        return STOPPED
    state = job.state if job is not None else "gone from the queue"
    why = REASONS.get(state, "it did not say how it ended")
    log = attempt.folder(work.stage) / f"{number}.log"
    raise StageError(f"job {number}: {state}: {why}. What it had saved is kept; its log: {log}")
