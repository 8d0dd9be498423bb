"""A stage's pod created once: its name is the stage's own, and the API takes no second pod of a name."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import machine
from pipelines.commands import stage_entries
from pipelines.devices import wants_gpu
from pipelines.handed_over import NOTES, HandedOver, key
from pipelines.kubernetes import pod
from pipelines.kubernetes.pod import Seen
from pipelines.kubernetes.target import Kubernetes, Target, block
from pipelines.processes import GRACE_SECONDS
from pipelines.stage import ANEW, StageError, write_json

if TYPE_CHECKING:
    from pipelines.kubernetes.client import Pods

LOOK_SECONDS = 0.5
"""Between two looks."""
GONE_SECONDS = 60.0
"""How long a deleted pod may take to go, besides the time that it has to save."""
EXTRA = "needs the extra `kubernetes`: pip install 'reelgraph[kubernetes]'"


def reached(kubernetes: Kubernetes) -> Pods:
    """The cluster's pods.

    Raises:
        StageError: the extra is not installed, or how to reach the cluster is not known.
    """
    try:
        from pipelines.kubernetes import client
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("dagster_k8s", "kubernetes"):
            raise
        raise StageError(f"target: kubernetes {EXTRA}") from None
    return client.pods(kubernetes)


def of_project(path: Path | None, content: Mapping[str, Any]) -> tuple[Pods, list[Seen]]:
    """The machine file's cluster, and all pods of this project in it.

    Raises:
        StageError: the file asks for what is not there, or the API does not answer.
    """
    kubernetes = block(path or Path(), content)
    pods = reached(kubernetes)
    return pods, pods.of_project(pod.mark(kubernetes))


# ---- the stage's pod ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Note:
    """What is on disk while a pod of a stage may run, written before it is created."""

    stage: str
    name: str
    key: str
    token: str
    host: str
    at: str
    restarts: int
    where: dict[str, Any]

    @property
    def file(self) -> Path:
        """Where it lies."""
        return Path(".work") / self.stage / NOTES["kubernetes"]

    def keep(self) -> None:
        """Write it, whole or not at all."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file, asdict(self))

    def forget(self) -> None:
        """Its end has been taken in."""
        self.file.unlink(missing_ok=True)


@dataclass(frozen=True)
class Work(HandedOver):
    """What is to be run: ``words`` as after ``python -m pipelines``, and what identifies the result."""

    stage: str
    target: Target
    words: Sequence[str]
    environment: dict[str, str]
    key: str
    outputs: Sequence[Path]
    pods: Pods

    @property
    def name(self) -> str:
        """The pod's name."""
        return pod.name(self.target, self.stage)

    def is_begun(self) -> bool:
        """Whether an earlier launcher has handed it over: what a pod has half written is not to be touched."""
        return self.pods.find(self.name) is not None

    def run(self, lock: int, look: Callable[[], None]) -> tuple[int, bool]:
        """See :func:`pipelines.kubernetes.follow.run`; the lock is of no use to a pod."""
        from pipelines.kubernetes.follow import run  # it follows what this creates

        return run(self, look)

    def note(self, restarts: int) -> Note:
        """The note of a pod that nobody has created yet."""
        own = self.target.kubernetes
        where = {"kubeconfig": own.kubeconfig, "context": own.context, "namespace": self.pods.namespace}
        at = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        token = secrets.token_hex(6)
        return Note(self.stage, self.name, self.key, token, socket.gethostname(), at, restarts, where)


def work(
    stage: str, target: Target, words: Sequence[str], alone: bool, environment: dict[str, str], outputs: Sequence[Path]
) -> Work:
    """A stage's pod, sized: one process of one that is alone, processors for its threads, GPUs where it wants them."""
    asked = target.resources
    if alone:
        asked = asked.model_copy(update={"processes": 1, "gpus": min(asked.gpus, 1)})
    if not wants_gpu(stage, stage_entries()):
        asked = asked.model_copy(update={"gpus": 0})
    environment = {machine.THREADS: str(asked.cpus)} | environment
    environment |= {} if asked.gpus else {"ACCELERATE_USE_CPU": "true"}
    sized = replace(target, resources=asked)
    return Work(stage, sized, words, environment, key(stage, words, outputs), outputs, reached(target.kubernetes))


def create(work: Work, restarts: int = 0) -> Seen:
    """Create the pod, or find the one that is there already under its name.

    Raises:
        StageError: the API refuses it or does not answer.
    """
    from pipelines.kubernetes.client import Unanswered, channel_variables

    note = work.note(restarts)
    note.keep()
    environment = {name: value for name, value in work.environment.items() if not (restarts and name == ANEW)}
    variables = pod.variables(work.target, work.stage, environment) | channel_variables(environment)
    asked = (
        work.target.resources.image or "",
        pod.command(work.target, work.words),
        variables,
        pod.meta(work.target, work.stage, work.key, note.token),
        pod.spec(work.target, GRACE_SECONDS),
    )
    try:
        work.pods.create(work.name, *asked)
    except Unanswered:  # it may have been created all the same
        if work.pods.find(work.name) is None:  # the API answers again, and has no such pod
            note.forget()
            raise
    found = work.pods.find(work.name)
    if found is None:
        raise StageError(f"pod {work.name} is gone as soon as it was created: somebody deleted it.")
    if found.token != note.token:
        return checked(work, found)
    work.say(f"created pod {work.name} in namespace {work.pods.namespace}")
    return found


def checked(work: Work, found: Seen) -> Seen:
    """A pod of this stage that somebody else has created: taken up where it computes the same.

    Raises:
        StageError: it computes something else.
    """
    if found.key != work.key:
        raise StageError(
            f"{found.told()} and computes this stage from other parameters, code or data. Wait for it, or end it: "
            f"kubectl -n {work.pods.namespace} delete pod {found.name}"
        )
    work.say(f"takes up {found.told()}, created {found.created}; nothing is created")
    return found


def taken_up(work: Work) -> Seen | None:
    """The pod that an earlier launcher has left; None where a new one is to be created, the way to that free.

    Raises:
        StageError: one of this stage runs that computes something else, or the API does not answer.
    """
    found = work.pods.find(work.name)
    if found is None:
        return None
    if found.is_leaving:
        work.say(f"{found.told()}; waits until it is gone")
        wait_gone(work, GRACE_SECONDS + GONE_SECONDS)
        return None
    if not found.is_over:
        return checked(work, found)
    if found.phase == "Succeeded" and found.key == work.key and all(path.exists() for path in work.outputs):
        work.say(f"pod {found.name} has ended well meanwhile")
        return found
    account(work, found)
    remove(work)
    return None


def remove(work: Work) -> None:
    """Free the name of a pod that is over.

    Raises:
        StageError: it does not go.
    """
    work.pods.delete(work.name)
    if not wait_gone(work, GONE_SECONDS):
        raise StageError(
            f"pod {work.name} is over but does not go; look at: kubectl -n {work.pods.namespace} get pod {work.name}"
        )


def wait_gone(work: Work, seconds: float) -> bool:
    """Whether the pod is gone within so long."""
    until = time.monotonic() + seconds
    while work.pods.find(work.name) is not None:
        if time.monotonic() > until:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def refuse_live(stage: str) -> None:
    """For a start that is not of Kubernetes: no second writer beside a pod that an earlier launcher left.

    Raises:
        StageError: such a pod runs, or whether it does cannot be asked.
    """
    file = Path(".work") / stage / NOTES["kubernetes"]
    try:
        note = Note(**json.loads(file.read_text(encoding="utf-8")))
        from pipelines.kubernetes.client import Pods

        found = Pods(**note.where, poll_seconds=LOOK_SECONDS).find(note.name)
    except (ModuleNotFoundError, OSError, ValueError, TypeError) as error:
        raise StageError(
            f"{file}: a pod of this stage may run, and whether it does cannot be asked here ({error}). Look with "
            "kubectl get pods -l reelgraph/project, delete what is of this stage, and remove the file."
        ) from None
    if found is not None and not found.is_over:
        raise StageError(
            f"{found.told()} and writes the same outputs. Start with `target: kubernetes`, or: "
            f"kubectl -n {note.where['namespace']} delete pod {found.name}"
        )
    note.forget()


# ---- what it took -------------------------------------------------------------------------------------------------


def _seconds(began: str, ended: str) -> float | None:
    with contextlib.suppress(ValueError):
        return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()
    return None


def account(work: Work, last: Seen) -> None:
    """What the pod took, into the record of the run that it made: the newest one written since it began."""
    from pipelines.record import FILE, Experiment  # it reads the stage's context

    given = pod.spec(work.target, GRACE_SECONDS)["containers"][0]["resources"]["limits"]
    known: dict[str, Any] = {"pod": last.name, "token": last.token, "node": last.node, "given": given}
    known |= {"state": last.reason or last.phase, "exit": last.code, "began": last.began, "ended": last.ended}
    known |= {"seconds": _seconds(last.began, last.ended)}
    with contextlib.suppress(OSError, ValueError):
        created = datetime.fromisoformat(last.created).timestamp()
        records = [
            path for path in (Path(".work") / work.stage).glob(f"*/{FILE}") if path.stat().st_mtime >= created - 1
        ]
        if records:
            newest = max(records, key=lambda path: path.stat().st_mtime)
            Experiment(newest).put(
                runtime={"kubernetes": {name: one for name, one in known.items() if one not in (None, "")}}
            )
