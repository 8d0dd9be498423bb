"""What goes wrong with a two-process training in a pod.

The API is a server of our own (tests/kubernetes/api.py) that runs containers as processes of this machine; the client
is dagster-k8s', with Kubernetes' own Python client below it.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from benchmarks.cluster import trainee
from benchmarks.cluster.jobs import REEL
from benchmarks.cluster.objects import environment_with
from benchmarks.cluster.training import PATIENCE, Failed, Project, Row, local
from tests.kubernetes.api import Api


class Pods:
    """The API, and where its clients find it."""

    def __init__(self, folder: Path, python: Path, environment: dict[str, str]) -> None:
        self.folder = folder / "kubernetes"
        self.folder.mkdir()
        self.python = python
        self.api = Api(environment["PATH"])
        self.environment = environment | {"KUBECONFIG": str(self.api.kubeconfig(self.folder / "config"))}

    def train(self, name: str, **resources: object) -> Project:
        """The toy project, sent to pods."""
        given = {"image": "here", "processes": 2, "cpus": 1, **resources}
        block = {"volume": {"host_path": "/", "mount": "/"}, "poll_seconds": 1, "resources": given}
        machine: dict[str, object] = {"target": "kubernetes", "kubernetes": block}
        return Project(self.folder / name, machine, self.environment, self.python)

    def of(self, training: Project) -> list[dict[str, object]]:
        """What was ever created for this project."""
        return [one for one in self.api.created if one["spec"]["containers"][0]["workingDir"] == str(training.root)]

    def name(self, training: Project) -> str:
        """The pod's name."""
        return str(self.of(training)[-1]["metadata"]["name"])  # type: ignore[index]


def judged(pods: Pods, training: Project, fault: str, happened: str, reference: str, code: int, most: int = 1) -> Row:
    """The row of a training that has ended: equal bits, no second pod, nothing left."""
    troubles = [f"exit {code}: {training.text()[-300:]}"] if code else []
    if trainee.bits(training.root) != reference:
        troubles.append(f"other bits: {trainee.bits(training.root)}")
    if len(pods.of(training)) > most:
        troubles.append(f"{len(pods.of(training))} pods")
    training.wait(lambda: not training.processes(), "the last process to go", 30)
    if pods.api.pods:
        troubles.append(f"left: {list(pods.api.pods)}")
    lost = "; ".join(troubles) or "nothing: the bits of the run that nobody touched"
    return Row(f"pod: {fault}", happened, lost, not troubles)


# ---- the faults -----------------------------------------------------------------------------------------------------


def pod_untouched(pods: Pods, reference: str) -> Row:
    """Nothing happens."""
    training = pods.train("pod-untouched")
    code = training.run()
    given = pods.of(training)[-1]["spec"]["containers"][0]["resources"]["limits"]  # type: ignore[index]
    return judged(pods, training, "none", f"created, followed, removed; given {given}", reference, code)


def pod_cancelled(pods: Pods, reference: str) -> Row:
    """Ctrl-C; then the same command."""
    training = pods.train("pod-cancelled")
    running = training.start()
    training.wait(lambda: training.is_at(10), "step 10")
    os.killpg(running.pid, signal.SIGINT)
    running.wait(PATIENCE)
    is_gone = not pods.api.pods and not training.processes()
    code = training.run() if is_gone else 1
    text = "saved, the pod deleted, no process left; the same command went on"
    return judged(pods, training, "ctrl-C", text, reference, code, most=2)


def _kill(training: Project) -> None:
    for pid in training.processes():
        with contextlib.suppress(psutil.Error):
            if "pipelines.launch" in " ".join(psutil.Process(pid).cmdline()):
                os.kill(pid, signal.SIGKILL)


def pod_launcher_killed(pods: Pods, reference: str) -> Row:
    """kill -9 of the launcher while the pod runs."""
    training = pods.train("pod-launcher")
    running = training.start()
    training.wait(lambda: training.is_at(10), "step 10")
    _kill(training)
    running.wait(PATIENCE)
    code = training.run()
    text = "the pod went on; the same command took it up, one pod"
    return judged(pods, training, "kill -9 of the launcher", text, reference, code)


def pod_orphaned(pods: Pods, reference: str) -> Row:
    """kill -9 of `reel run`."""
    training = pods.train("pod-orphaned")
    running = training.start((str(pods.python), *REEL[1:]))
    training.wait(lambda: training.is_at(10), "step 10")
    running.kill()
    running.wait()
    training.wait(lambda: not any_launcher(training), "the launcher to leave", 60)
    code = training.run()
    return judged(pods, training, "kill -9 of `reel run`", "the pod went on; `dvc repro` took it up", reference, code)


def any_launcher(training: Project) -> bool:
    """Whether a launcher runs in the project."""
    words = []
    for pid in training.processes():
        with contextlib.suppress(psutil.Error):
            words.append(" ".join(psutil.Process(pid).cmdline()))
    return any("pipelines.launch" in line for line in words)


def pod_unheard(pods: Pods, reference: str) -> Row:
    """The launcher dies between the creation and its answer."""
    training = pods.train("pod-unheard")
    pods.api.before_answer = lambda: _kill(training)
    training.start().wait(PATIENCE)
    pods.api.before_answer = None
    code = training.run()
    text = "the next one found the pod under the stage's name, one pod"
    return judged(pods, training, "launcher dead between creation and answer", text, reference, code)


def pod_evicted(pods: Pods, reference: str) -> Row:
    """The cluster takes the pod away."""
    training = pods.train("pod-evicted")
    running = training.start()
    training.wait(lambda: training.is_at(10), "step 10")
    pods.api.evict(pods.name(training))
    code = running.wait(PATIENCE)
    text = f"saved, another pod went on, from {len(pods.of(training))} in all"
    return judged(pods, training, "evicted", text, reference, code, most=2)


def pod_out_of_time(pods: Pods, reference: str) -> Row:
    """Its time is over before the training is."""
    training = pods.train("pod-time", seconds=12)
    code = training.run()
    count = len(pods.of(training))
    row = judged(pods, training, "its time is over (12 s)", f"saved each time, {count} pods", reference, code, most=6)
    return row if count > 1 else Row(row.fault, "was never ended", "not tried", False)


def api_away(pods: Pods, reference: str) -> Row:
    """The API answers 503 for five seconds while the pod runs."""
    training = pods.train("pod-away")
    running = training.start()
    training.wait(lambda: training.is_at(10), "step 10")
    pods.api.is_away = True
    with contextlib.suppress(RuntimeError):
        training.wait(lambda: "waits" in training.text(), "the launcher to say so", 5)
    pods.api.is_away = False
    code = running.wait(PATIENCE)
    return judged(pods, training, "the API away for a while", "the launcher said so and waited", reference, code)


FAULTS: tuple[Callable[[Pods, str], Row], ...] = (
    pod_untouched,
    pod_cancelled,
    pod_launcher_killed,
    pod_orphaned,
    pod_unheard,
    pod_evicted,
    pod_out_of_time,
    api_away,
)


def rows(folder: Path, only: list[str]) -> Iterator[Row]:
    """What goes wrong with pods."""
    faults = [fault for fault in FAULTS if not only or fault.__name__ in only]
    if not faults:
        return
    python, environment = environment_with(folder)
    pods = Pods(folder, python, environment)
    try:
        reference = local(pods.folder, environment, python)
        for fault in faults:
            try:
                yield fault(pods, reference)
            except (Failed, RuntimeError, AssertionError, OSError) as error:
                yield Row(fault.__name__, str(error)[-600:], "not known", False)
            finally:
                for known in list(pods.api.pods.values()):
                    known.end(grace=0)
                pods.api.pods.clear()
    finally:
        pods.api.stop()
