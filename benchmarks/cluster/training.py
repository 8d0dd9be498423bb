"""The toy training that faults are tried on, in a project of its own, run against a cluster."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.cluster import trainee
from benchmarks.cluster.slurm import Cluster

PATIENCE = 600.0
PEER_SECONDS = 30
REPRO = (sys.executable, "-m", "dvc", "repro")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    fault: str
    happened: str
    lost: str
    is_well: bool


class Failed(RuntimeError):
    """Something is not as it must be."""


def machine_file(cluster: Cluster, **changes: object) -> dict[str, object]:
    """A ``launch.yaml`` that sends the stage to both nodes."""
    resources: dict[str, object] = {"nodes": 2, "processes": 1, "cpus": 1, "time": "10", **changes}
    slurm: dict[str, object] = {"warning_seconds": 30, "poll_seconds": 2, "resources": resources}
    if cluster.network:
        slurm["setup"] = ["export GLOO_SOCKET_IFNAME=eth0"]
    return {"target": "slurm", "slurm": slurm}


class Project:
    """The toy project in a folder of its own, run by some command."""

    def __init__(self, root: Path, machine: dict[str, object], environment: dict[str, str], python: Path) -> None:
        self.root, self.python = trainee.make(root, machine), python
        self.log = root.parent / f"{root.name}.log"
        path = f"{python.parent}{os.pathsep}{environment['PATH']}"
        self.environment = {**environment, "PATH": path, "REEL_PROJECT": str(self.root)}
        self.environment |= {"REEL_PEER_SECONDS": str(PEER_SECONDS), "PYTHONPATH": str(trainee.REPO)}
        self.environment |= {
            "REEL_GRACE_SECONDS": "20",
            "DVC_NO_ANALYTICS": "1",
            "DAGSTER_HOME": f"{self.root}/.dagster",
        }

    def start(self, command: tuple[str, ...] = REPRO, **variables: str) -> subprocess.Popen[bytes]:
        """Start the stage."""
        environment = self.environment | variables
        if command is REPRO:  # the project's own code, not this checkout's
            environment.pop("PYTHONPATH")
            command = (str(self.python), *REPRO[1:])
        log = self.log.open("ab")
        return subprocess.Popen(
            command, cwd=self.root, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def run(self) -> int:
        """Run the stage to its end."""
        return self.start().wait(PATIENCE)

    def text(self) -> str:
        """All that was said."""
        return self.log.read_text(errors="replace") if self.log.is_file() else ""

    def is_at(self, step: int) -> bool:
        """Whether the job has saved this step."""
        return trainee.saved_step(self.root) >= step

    def wait(self, is_so: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        """Until it is so, or an error with the last lines of the log."""
        until = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > until:
                raise Failed(f"waited {seconds:g} s for {what}\n{self.text()[-2000:]}")
            time.sleep(0.2)

    def processes(self) -> list[int]:
        """What runs of this project on this machine, launchers and ranks."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self.root) and "pipelines" in " ".join(process.cmdline()):
                    found.append(process.pid)
            except (psutil.Error, OSError):
                continue
        return found


def local(folder: Path, environment: dict[str, str], python: Path) -> str:
    """The same training on this machine in two processes: the bits that every other must end with."""
    project = Project(folder / "local", {"num_processes": 2, "use_cpu": True}, environment, python)
    if project.run():
        raise Failed(project.text()[-2000:])
    return trainee.bits(project.root)


class Training(Project):
    """The toy project, sent to a Slurm."""

    def __init__(self, cluster: Cluster, name: str, **changes: object) -> None:
        self.cluster = cluster
        root = cluster.folder.parent / name
        super().__init__(root, machine_file(cluster, **changes), cluster.environment, Path(sys.executable))

    def numbers(self) -> list[str]:
        """The jobs that were submitted for this project, by the controller's own memory."""
        found = self.cluster.say("squeue", "-h", "-t", "all", "-o", "%i|%Z")
        return [line.split("|")[0] for line in found.splitlines() if line.endswith(f"|{self.root}")]

    def state(self) -> str:
        """The newest job's state."""
        numbers = self.numbers()
        return self.cluster.say("squeue", "-h", "-t", "all", "-j", numbers[-1], "-o", "%T") if numbers else ""

    def starts(self) -> list[int]:
        """The steps at which the job went on, as its log says them."""
        logs = sorted((self.root / ".work" / "train" / "slurm").glob("*.log"))
        text = "".join(path.read_text(errors="replace") for path in logs)
        return [int(step) for step in re.findall(r"continues at step (\d+)", text)]
