"""The machine file's ``target: kubernetes``: what each stage's pod is given. Facts of the machine, in no identity."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from pipelines import targets
from pipelines.stage import StageError
from pipelines.targets import Block, Engine, Job, Line, Number, chosen

MEMORY = re.compile(r"\d+(\.\d+)?([kMGTPE]|[KMGTPE]i)?")
OURS = frozenset(
    {"containers", "restartPolicy", "terminationGracePeriodSeconds", "activeDeadlineSeconds", "nodeSelector"}
)
"""Keys of a pod's spec that are written from the other keys, so that ``pod`` may not hold them."""


def _memory(value: Any) -> Any:
    if not isinstance(value, str) or not MEMORY.fullmatch(value):
        raise ValueError(f"{value!r}: write memory as Kubernetes does, such as 64Gi")
    return value


def _beside(value: Any) -> Any:
    found = sorted(OURS & value.keys()) if isinstance(value, dict) else []
    if found:
        raise ValueError(f"{found[0]} is written from the other keys; `pod` is for what they do not say")
    return value


Memory = Annotated[str, BeforeValidator(_memory)]


class Volume(Block):
    """The disk that launcher and pods share, on which the project lies: a claim, or a folder of every node."""

    claim: Line | None = None
    host_path: Line | None = None
    sub_path: Line | None = None
    mount: Line

    @model_validator(mode="after")
    def _is_one(self) -> Volume:
        if (self.claim is None) == (self.host_path is None):
            raise ValueError("write `claim` (a PersistentVolumeClaim) or `host_path` (a folder of every node)")
        return self


class Resources(Block):
    """What one stage's pod is given. ``cpus`` are of one process; ``gpus`` and ``memory`` of the pod."""

    image: Line | None = None
    processes: Number = 1
    cpus: Number = 1
    gpus: Annotated[int, Field(ge=0)] = 0
    memory: Memory | None = None
    shared_memory: Memory | None = None
    seconds: Number | None = None
    priority_class: Line | None = None
    node_selector: dict[str, str] = Field(default_factory=dict)


class Kubernetes(Engine):
    """The block ``kubernetes``: of the cluster, of every stage (``resources``), and of single ones (``stages``)."""

    volume: Volume
    namespace: Line | None = None
    kubeconfig: Line | None = None
    context: Line | None = None
    python: Line = "python"
    gpu_resource: Line = "nvidia.com/gpu"
    service_account: Line | None = None
    env: dict[str, str] = Field(default_factory=dict)
    secrets: list[Line] = Field(default_factory=list)
    pod: Annotated[dict[str, Any], BeforeValidator(_beside)] = Field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """Where one stage runs: what is common to the cluster's pods, and what this stage's pod is given."""

    kubernetes: Kubernetes
    resources: Resources
    engine = "kubernetes"

    def job(
        self, stage: str, words: Sequence[str], alone: bool, environment: dict[str, str], outputs: Sequence[Path]
    ) -> Job:
        """The stage's pod: ``words`` as after ``python -m pipelines``."""
        from pipelines.kubernetes.submit import work  # it asks for the graph

        return work(stage, self, words, alone, environment, outputs)


def block(path: Path, content: Mapping[str, Any]) -> Kubernetes:
    """The block ``kubernetes`` of the machine file.

    Raises:
        StageError: it asks for something that is not there, with its key.
    """
    return targets.block(path, content, "kubernetes", Kubernetes)


def target(path: Path, content: Mapping[str, Any], stage: str, known: set[str]) -> Target | None:
    """Where the machine file sends this stage; None for this machine.

    Raises:
        StageError: the file asks for something that is not there, with its key; or lacks what every pod needs.
    """
    found = chosen(path, content, stage, known, "kubernetes", Kubernetes, Resources)
    if found is None:
        return None
    kubernetes, resources = found
    if resources.image is None:
        raise StageError(
            f"{path}: kubernetes.resources.image: missing: the image of {stage}'s container, with this project's "
            "environment (requirements.lock) in it."
        )
    mount = Path(kubernetes.volume.mount)
    if not mount.is_absolute() or not Path.cwd().is_relative_to(mount):
        raise StageError(
            f"{path}: kubernetes.volume.mount: {mount} does not hold this project ({Path.cwd()}). The volume is "
            "mounted in the pod where it is mounted here, so that both write the same files under the same names."
        )
    return Target(kubernetes, resources)
