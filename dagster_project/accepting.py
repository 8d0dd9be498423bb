"""`reel accept`: a result of other code counts as one of today's where ten steps of both are the same bits."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster_dvc.project import DvcProject

COMPARES = "pipelines.training.accept"


def add_words(sub: argparse.ArgumentParser) -> None:
    """The words of the command."""
    sub.add_argument("stage", nargs="+", help="a training whose code was rewritten without changing a number")
    sub.add_argument("--because", required=True, metavar="TEXT", help="what was changed; it stands in the run's record")


def accept(project: DvcProject, arguments: argparse.Namespace) -> int:
    """Compare, and let DVC record today's code for the result: nothing is trained anew, nothing after it is stale."""
    from dagster_dvc.project import DvcProject

    return max([_accept(DvcProject(project.root), name, arguments.because) for name in arguments.stage])


def _accept(project: DvcProject, name: str, because: str) -> int:
    import subprocess

    from dagster_dvc import repro, status
    from dagster_dvc.generated import makers
    from dagster_dvc.running import running

    stage = project.stage(name)
    why = status.stale(project).get(name, [])
    if not why:
        print(f"{name}: fresh; there is nothing to accept.")
        return 0
    others = [str(reason) for reason in why if reason.kind != "code"]
    if others:
        return _refused(f"{name}: not its code alone changed ({'; '.join(others[:3])}); `reel run {name}` runs it.")
    if name in running(project):
        return _refused(f"{name}: is running; wait for its end, or stop it.")
    command = [sys.executable, "-m", COMPARES, name, "--because", because]
    code = subprocess.run(command, cwd=project.root, check=False).returncode
    if code:
        return code
    for maker in makers(project, stage):
        made = repro.Repro(project, maker.name).result()
        if not made.succeeded:
            return _refused(f"{maker.name}: {made.error}")
    done = repro.dvc(project, "commit", "--force", name)
    left = status.stale(type(project)(project.root)).get(name, [])
    if done.returncode or left:
        said = (done.stderr.strip().splitlines() or ["; ".join(map(str, left))])[-1]
        return _refused(f"{name}: dvc commit: {said}")
    print(f"{name}: accepted; dvc.lock records today's code for it. Its record says why: reel log --print")
    return 0


def _refused(text: str) -> int:
    print(f"reel accept: {text}", file=sys.stderr)
    return 1
