"""A stage's pod as Kubernetes writes it, and what the API's answer says of it. Plain dictionaries: no client needed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.handed_over import project_mark
from pipelines.kubernetes.target import Kubernetes, Target

CONTAINER = "stage"
PROJECT, STAGE, KEY, TOKEN = "reelgraph/project", "reelgraph/stage", "reelgraph/key", "reelgraph/token"
"""Labels (project) and annotations of our pods."""
OWN_PREFIXES = ("REEL_", "ACCELERATE_", "FSDP_")
KEPT = frozenset({"DVC_STAGE", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "PYTHONPATH"})
NOT_SENT = frozenset({"REEL_POSTGRES_URL", "REEL_UI_TOKEN", "REEL_LAUNCH", "REEL_LAUNCHER", "REEL_JOB_FOLDER"})
"""Of this machine, or secret: whoever may read pods reads their variables."""
MORE_SECONDS = 15
"""Beyond the time that a stage has to save: for the processes that hold out to be ended."""
MOVED = frozenset({"Evicted", "Preempting", "NodeLost", "NodeShutdown", "Shutdown", "Terminated", "NodeAffinity"})
"""Reasons of a pod that the cluster ended, not the stage."""
HOPELESS = frozenset({"InvalidImageName", "ErrImageNeverPull", "ImagePullBackOff", "CrashLoopBackOff"})
"""Reasons for which a container waits and that do not pass by themselves."""


def mark(kubernetes: Kubernetes) -> str:
    """What tells pods of this project from those of others: its folder, and the volume on which it lies."""
    volume = kubernetes.volume
    parts = [project_mark(), volume.claim or "", volume.host_path or "", volume.sub_path or ""]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:12]


def name(target: Target, stage: str) -> str:
    """The pod's name: the same for every start of this stage, and no other's (63 characters at most, DNS's letters)."""
    own = hashlib.sha256(f"{mark(target.kubernetes)}|{stage}".encode()).hexdigest()[:12]
    return f"reel-{re.sub('[^a-z0-9]+', '-', stage.lower()).strip('-')[:40]}-{own}"


# ---- what is asked for --------------------------------------------------------------------------------------------


def variables(target: Target, stage: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables of the container: those of the stage, and what the machine file adds; not those of this machine."""
    kept = {
        key: value
        for key, value in environment.items()
        if (key.startswith(OWN_PREFIXES) or key in KEPT) and key not in NOT_SENT
    }
    return {**kept, "REEL_STAGE": stage, **target.kubernetes.env}


def meta(target: Target, stage: str, key: str, token: str) -> dict[str, Any]:
    """Labels and annotations by which the pod is known again."""
    return {"labels": {PROJECT: mark(target.kubernetes)}, "annotations": {STAGE: stage, KEY: key, TOKEN: token}}


def command(target: Target, words: Sequence[str]) -> list[str]:
    """What the container runs."""
    return [target.kubernetes.python, "-m", "pipelines.kubernetes.job", str(target.resources.processes), *words]


def spec(target: Target, grace_seconds: float) -> dict[str, Any]:
    """The pod's spec, but for the container's image, command and variables."""
    own, given = target.kubernetes, target.resources
    cpus: dict[str, Any] = {"cpu": str(given.cpus * given.processes)}
    asked = cpus | ({"memory": given.memory} if given.memory else {})
    limits = asked | ({own.gpu_resource: str(given.gpus)} if given.gpus else {})
    disk = {"mountPath": own.volume.mount, "name": "project"}
    container: dict[str, Any] = {
        "name": CONTAINER,
        "workingDir": str(Path.cwd()),
        "resources": {"requests": asked, "limits": limits},
        "volumeMounts": [
            disk | ({"subPath": own.volume.sub_path} if own.volume.sub_path else {}),
            {"mountPath": "/dev/shm", "name": "shared-memory"},  # 64 MiB otherwise: too little for several processes
        ],
        "envFrom": [{"secretRef": {"name": secret}} for secret in own.secrets],
    }
    source = (
        {"persistentVolumeClaim": {"claimName": own.volume.claim}}
        if own.volume.claim
        else {"hostPath": {"path": own.volume.host_path, "type": "Directory"}}
    )
    memory = {"medium": "Memory"} | ({"sizeLimit": given.shared_memory} if given.shared_memory else {})
    ours: dict[str, Any] = {
        "containers": [container],
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": int(grace_seconds) + MORE_SECONDS,
        "activeDeadlineSeconds": given.seconds,
        "nodeSelector": given.node_selector or None,
        "priorityClassName": given.priority_class,
        "serviceAccountName": own.service_account,
    }
    volumes = [{"name": "project", **source}, {"name": "shared-memory", "emptyDir": memory}]
    stated = {key: value for key, value in ours.items() if value is not None}
    return {**own.pod, **stated, "volumes": [*own.pod.get("volumes", []), *volumes]}


# ---- what is there ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """A pod as the API shows it."""

    name: str
    stage: str
    key: str
    token: str
    phase: str
    node: str
    created: str
    is_leaving: bool
    is_moved: bool
    has_begun: bool
    why: str
    reason: str
    code: int | None
    began: str
    ended: str

    @property
    def is_over(self) -> bool:
        """Whether its container has ended, or never will begin."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def is_hopeless(self) -> bool:
        """Whether it waits for what does not come by itself."""
        return self.phase == "Pending" and self.reason in HOPELESS

    def told(self) -> str:
        """Name, phase and why, in words."""
        where = f" on {self.node}" if self.node else ""
        why = f" ({self.why})" if self.why and not self.is_over else ""
        return f"pod {self.name} is {'ending' if self.is_leaving else self.phase.lower()}{where}{why}"


def _state(status: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """(waiting, running or terminated; what is said of it) of our container, or of one before it that holds it."""
    first = [one for one in status.get("initContainerStatuses") or [] if "waiting" in (one.get("state") or {})]
    ours = [one for one in status.get("containerStatuses") or [] if one.get("name") == CONTAINER]
    for one in [*first, *ours]:
        for kind, said in (one.get("state") or {}).items():
            if said is not None:
                return kind, said
    return "", {}


def seen(content: Mapping[str, Any]) -> Seen:
    """What the API's answer (as JSON) says."""
    about, status = content.get("metadata") or {}, content.get("status") or {}
    notes = about.get("annotations") or {}
    kind, said = _state(status)
    conditions = {one.get("type"): one for one in status.get("conditions") or []}
    unplaced = conditions.get("PodScheduled", {}) if status.get("phase") == "Pending" else {}
    placed = {} if unplaced.get("status") != "False" else unplaced
    reason = status.get("reason") or said.get("reason") or placed.get("reason") or ""
    why = status.get("message") or said.get("message") or placed.get("message") or ""
    disrupted = conditions.get("DisruptionTarget", {}).get("status") == "True"
    return Seen(
        name=about.get("name", ""),
        stage=notes.get(STAGE, ""),
        key=notes.get(KEY, ""),
        token=notes.get(TOKEN, ""),
        phase=status.get("phase") or "Pending",
        node=(content.get("spec") or {}).get("nodeName") or "",
        created=str(about.get("creationTimestamp") or ""),
        is_leaving=about.get("deletionTimestamp") is not None,
        is_moved=disrupted or status.get("reason") in MOVED,
        has_begun=kind in ("running", "terminated"),
        why=": ".join(filter(None, [reason, why])),
        reason=reason,
        code=said.get("exitCode") if kind == "terminated" else None,
        began=str(said.get("startedAt") or ""),
        ended=str(said.get("finishedAt") or ""),
    )
