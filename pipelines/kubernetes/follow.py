"""A stage's pod from here: created once, followed, taken up again by whoever comes next, deleted whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from pipelines.handed_over import newest_state
from pipelines.kubernetes import pod
from pipelines.kubernetes.pod import Seen
from pipelines.kubernetes.submit import GONE_SECONDS, LOOK_SECONDS, Work, account, create, remove, taken_up, wait_gone
from pipelines.processes import GRACE_SECONDS, left_alone, listen, listen_for_hangup
from pipelines.stage import LEFT, STOPPED, StageError

QUIET_SECONDS = 1.0
"""Between two questions while the pod has not begun, or has nothing more to say; else ``poll_seconds``."""


class _Watch:
    """The pod, asked for again and again."""

    def __init__(self, work: Work, first: Seen, is_taken_up: bool) -> None:
        self.work, self.last = work, first
        self.is_gone = False
        self._is_taken_up = is_taken_up
        self._log: threading.Thread | None = None
        self._asked, self._told, self._trouble = 0.0, "", ""
        self._take(first)

    def _take(self, now: Seen | None) -> None:
        self.is_gone = now is None
        if now is None:
            return
        self.last = now
        if now.told() != self._told and not now.is_over:
            self.work.say(now.told())
        self._told = now.told()
        if now.has_begun and self._log is None:
            self._log = self.work.pods.print_log(now.name, self._is_taken_up)

    def ended(self) -> bool:
        """Whether the pod is over, gone, or waits for what will not come; asked when it is time to."""
        from pipelines.kubernetes.client import Unanswered

        if self.last.is_over or self.is_gone or self.last.is_hopeless:
            return True
        is_quiet = self._log is None or not self._log.is_alive()  # not begun, or nothing more to be heard
        every = min(self.work.target.kubernetes.poll_seconds, QUIET_SECONDS if is_quiet else float("inf"))
        if time.monotonic() - self._asked < every:
            return False
        self._asked = time.monotonic()
        try:
            self._take(self.work.pods.find(self.work.name))
        except Unanswered as error:  # the pod does not need the API; neither does waiting for it
            if str(error) != self._trouble:
                self._trouble = str(error)
                self.work.say(f"{error} The pod is not touched by that; waits")
        return self.last.is_over or self.is_gone or self.last.is_hopeless

    def finish(self) -> None:
        """The last lines of the log."""
        if self._log is not None:
            self._log.join(10.0)


def _cancel(watch: _Watch) -> None:
    """Ask the pod to save and end, and wait until it is gone, or say that it is not."""
    work = watch.work
    work.say(f"asked to stop; pod {work.name} has {GRACE_SECONDS:g} s to save (REEL_GRACE_SECONDS)")
    work.pods.delete(work.name, int(GRACE_SECONDS) + pod.MORE_SECONDS)
    if not wait_gone(work, GRACE_SECONDS + pod.MORE_SECONDS + GONE_SECONDS):
        work.say(f"pod {work.name} is not gone; look at: kubectl -n {work.pods.namespace} get pod {work.name}")
    watch.finish()


def run(work: Work, look: Callable[[], None]) -> tuple[int, bool]:
    """Have a pod run the stage, to its end. Returns its exit code, and whether it was asked to stop.

    A signal to stop deletes the pod. When whoever started this launcher is gone, or the terminal is, the pod goes on
    and the launcher leaves it: the same command takes it up again. A pod that the cluster took away is followed by
    another, which goes on from what was saved.

    Raises:
        StageError: Kubernetes does not take it, does not answer, or ended it; what to do.
    """
    stopping, hung_up = threading.Event(), threading.Event()
    listen(stopping)
    listen_for_hangup(hung_up)
    is_left = left_alone()
    found = taken_up(work)
    is_taken_up, restarts = found is not None, 0
    while True:
        folder = Path(".work") / work.stage
        saved = newest_state(folder)
        watch = _Watch(work, found or create(work, restarts), is_taken_up)
        while not watch.ended():
            look()
            if hung_up.is_set() or is_left():
                work.say(
                    f"whoever started this is gone; pod {work.name} goes on, and the same command takes it up again"
                )
                return LEFT, False
            if stopping.wait(LOOK_SECONDS):
                time.sleep(LOOK_SECONDS)  # one that is dying closes its pipes before it is gone
                if is_left():  # a supervisor stops what its dead starter has left
                    continue
                _cancel(watch)
                work.note(restarts).forget()
                return STOPPED, True
        watch.finish()
        code = _taken_in(watch, newest_state(folder) != saved, restarts)
        if code is not None:
            return code, False
        found, is_taken_up, restarts = None, False, restarts + 1


def _taken_in(watch: _Watch, has_saved: bool, restarts: int) -> int | None:
    """The exit code of a pod that is over, removed and accounted for; None where another one is to go on.

    Raises:
        StageError: it ended in a way that another one would not mend.
    """
    work, last = watch.work, watch.last
    account(work, last)
    if not watch.is_gone:
        remove(work)
    again = restarts < work.target.kubernetes.most_restarts
    if again and last.is_moved:
        work.say(f"the cluster has taken pod {last.name} away ({last.reason or 'disrupted'}); another one goes on")
        return None
    if again and last.reason == "DeadlineExceeded" and has_saved:
        work.say(f"the time of pod {last.name} was over; what it had saved is kept, another one goes on")
        return None
    work.note(restarts).forget()
    if last.phase == "Succeeded" and not watch.is_gone:
        return 0
    if last.code and last.reason in ("", "Error", "Completed") and not watch.is_gone:
        return last.code
    raise StageError(f"pod {last.name}: {_reason(watch)}. What it had saved is kept.")


def _reason(watch: _Watch) -> str:
    last = watch.last
    if watch.is_gone:
        return "somebody deleted it"
    if last.reason == "OOMKilled":
        return "it took more memory than `memory` gives it"
    if last.reason == "DeadlineExceeded":
        return "its time was over before it had saved; raise `seconds`"
    return last.why or "it did not say how it ended"
