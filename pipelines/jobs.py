"""``reel jobs``: this project's jobs on the cluster that the machine file names, and which of them nobody follows."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.handed_over import NOTES
from pipelines.leftovers import WORK
from pipelines.stage import StageError
from pipelines.starting import machine_config


@dataclass(frozen=True)
class LiveJob:
    """A live job of this project: how it is, what ends it, and whether a launcher follows it, as far as locks tell."""

    stage: str
    told: str
    end: str
    is_followed: bool

    def line(self) -> str:
        """One line, with the remedy for an orphan."""
        left = "" if self.is_followed else f"; nobody follows it: `reel run {self.stage}` takes it up"
        return f"{self.stage}: {self.told}{left}; {self.end} ends it"


def is_followed(stage: str, work: Path = Path(".work")) -> bool:
    """Whether a launcher owns the stage: its lock is held."""
    lock = work / stage / "owner.lock"
    if not lock.is_file():
        return False
    descriptor = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _of_slurm() -> list[LiveJob]:
    from pipelines.handed_over import project_mark
    from pipelines.slurm.attempt import read_comment
    from pipelines.slurm.queue import mine

    told = [(job, read_comment(job.comment)) for job in mine() if job.is_live]
    ours = [(job, parts[1]) for job, parts in told if parts is not None and parts[0] == project_mark()]
    return [
        LiveJob(stage, f"{job.told()}, submitted {job.submitted}", f"scancel {job.number}", is_followed(stage))
        for job, stage in ours
    ]


def _of_kubernetes() -> list[LiveJob]:
    from pipelines.kubernetes.submit import of_project

    pods, found = of_project(*machine_config())
    ends = f"kubectl -n {pods.namespace} delete pod"
    return [
        LiveJob(one.stage, f"{one.told()}, created {one.created}", f"{ends} {one.name}", is_followed(one.stage))
        for one in found
        if not one.is_over
    ]


def found() -> list[LiveJob] | None:
    """Every live job that says it is of this project; None where nothing names a cluster and none answers.

    Raises:
        StageError: the cluster does not answer.
    """
    target = machine_config()[1].get("target", "local")
    if target == "kubernetes":
        return _of_kubernetes()
    try:
        return _of_slurm()
    except StageError:  # of a target that was changed since, a note would be left
        if target == "slurm" or any(WORK.glob(f"*/{NOTES['slurm']}")):
            raise
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 1 where there is an orphan."""
    argparse.ArgumentParser(prog="reel jobs", description="This project's jobs on the cluster.").parse_args(argv)
    try:
        jobs = found()
    except StageError as error:
        print(f"reel jobs: {error}", file=sys.stderr)
        return 2
    if jobs is None:
        print(
            "Stages run on this machine (`target` of launch.yaml), and no job of a cluster is noted here: reel status"
        )
        return 0
    print("\n".join(one.line() for one in jobs) or "No job of this project is in the queue.")
    return 0 if all(one.is_followed for one in jobs) else 1


if __name__ == "__main__":
    sys.exit(main())
