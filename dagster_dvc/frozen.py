"""A frozen stage is brought back, never run.

``dvc repro`` of a frozen stage runs nothing and writes whatever lies at its outputs into dvc.lock: after a ``git
checkout`` without ``dvc checkout`` that is the output of another branch, recorded as this one's.
"""

import subprocess
import sys
import time
from collections.abc import Callable

from dagster_dvc.environment import environment
from dagster_dvc.lock import Entry, read_lock
from dagster_dvc.missing import lost
from dagster_dvc.project import DvcProject, Stage
from dagster_dvc.repro import Result


def keep(
    project: DvcProject, stage: Stage, *, pull: bool = False, on_line: Callable[[str], None] = lambda line: None
) -> Result:
    """What dvc.lock records of a frozen stage is put in its place: from the cache, with `pull` from the remote.

    What lies there and is nowhere else is never overwritten; then the result is a failure with the way on.
    """
    began, entry = time.time(), read_lock(project).get(stage.name)
    thaw = f"take 'frozen' from {stage.file}:{stage.line}"
    if entry is None:
        return _refused(stage, began, f"is frozen and was never recorded: no run is known to restore; {thaw}")
    if entry.cmd != stage.cmd:
        on_line(f"is frozen: its new command is not run; {thaw} to run it, or record it with `dvc commit {stage.name}`")
    if not _others(project, stage, entry):
        return Result(stage.name, "unchanged", time.time() - began, 0)
    on_line("is frozen: what dvc.lock records of it is brought back")
    said = _dvc(project, "checkout", stage.name)
    if pull and _others(DvcProject(project.root), stage, entry):
        said = _dvc(project, "pull", stage.name)
    left = _others(DvcProject(project.root), stage, entry)
    if not left:
        return Result(stage.name, "restored", time.time() - began, 0)
    if why := lost(DvcProject(project.root), [stage]):  # gone from here and from the cache
        return _refused(stage, began, "\n".join(why), said)
    return _refused(
        stage,
        began,
        f"is frozen, and {', '.join(left)} is not what dvc.lock records; what is there stands nowhere else: move it, "
        f"then `dvc checkout {stage.name}`; or {thaw}; or record it with `dvc commit {stage.name}`",
        said,
    )


def _others(project: DvcProject, stage: Stage, entry: Entry) -> list[str]:
    """Outputs that are not as recorded."""
    recorded = {path: locked.hash for path, locked in entry.outs.items()}
    return [out.path for out in stage.outs if project.hashes.of(out.path) != recorded.get(out.path)]


def _refused(stage: Stage, began: float, why: str, said: str = "") -> Result:
    text = (
        why if why.startswith(("dvc.", f"{stage.file}:")) else f"{stage.file}:{stage.line}: stage '{stage.name}' {why}"
    )
    return Result(stage.name, "failed", time.time() - began, 1, text, said.splitlines())


def _dvc(project: DvcProject, *words: str) -> str:
    """What dvc says to a command that it may refuse; it never overwrites here, and never asks."""
    command = [sys.executable, "-P", "-m", "dvc", "--wait-for-lock", *words]
    done = subprocess.run(
        command,
        cwd=project.root,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return done.stdout
