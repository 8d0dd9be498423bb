"""``reel jobs``: this project's jobs on the cluster, and which of them nobody follows."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.slurm import attempt, queue
from pipelines.slurm.queue import Job
from pipelines.stage import StageError


@dataclass(frozen=True)
class Found:
    """A live job of this project, and whether a launcher follows it (as far as this machine's locks tell)."""

    stage: str
    job: Job
    is_followed: bool

    def line(self) -> str:
        """One line, with the remedy for an orphan."""
        left = "" if self.is_followed else f"; nobody follows it: `reel run {self.stage}` takes it up"
        return (
            f"{self.stage}: {self.job.told()}, submitted {self.job.submitted}{left}; scancel {self.job.number} ends it"
        )


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


def found() -> list[Found]:
    """Every live job whose comment says that it is of this project.

    Raises:
        StageError: Slurm does not answer.
    """
    told = [(job, attempt.read_comment(job.comment)) for job in queue.mine() if job.is_live]
    mine = [(job, parts[1]) for job, parts in told if parts is not None and parts[0] == attempt.project_mark()]
    return [Found(stage, job, is_followed(stage)) for job, stage in mine]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 1 where there is an orphan."""
    argparse.ArgumentParser(prog="reel jobs", description="This project's jobs on the cluster.").parse_args(argv)
    try:
        jobs = found()
    except StageError as error:
        print(f"reel jobs: {error}", file=sys.stderr)
        return 2
    print("\n".join(one.line() for one in jobs) or "No job of this project is in the queue.")
    return 0 if all(one.is_followed for one in jobs) else 1


if __name__ == "__main__":
    sys.exit(main())
