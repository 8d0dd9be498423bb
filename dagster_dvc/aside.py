"""Stages that are set aside: marked ``meta.dagster.optional`` and never run, so left out until they are named.

One that another stage needs by name is no longer aside: its output is a dependency of a stage that runs. (A stage that
reads a whole folder takes what is in it.) From its first run on a stage is one like the others: nothing stale stands
beside fresh results.
"""

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from dagster_dvc.lock import read_lock


def set_aside(project: Any, named: Iterable[str] = ()) -> set[str]:
    """Names of the stages of a :class:`dagster_dvc.project.DvcProject` that no pattern, group or plus selects.

    ``named``: stages that are to run whatever they are, with what they need.
    """
    marked = {name for name, stage in project.stages.items() if stage.dagster.get("optional")} - set(named)
    aside = marked - read_lock(project).keys() if marked else set()
    while needed := {name for name in aside if _is_needed(project, project.stages[name], aside)}:
        aside -= needed
    return aside


def _is_needed(project: Any, stage: Any, aside: set[str]) -> bool:
    """Whether a stage that is not aside reads an output, or what lies in it; a folder around it does not count."""
    outs = {PurePosixPath(out.path) for out in stage.outs}
    readers = (other for name, other in project.stages.items() if name not in aside)
    deps = (PurePosixPath(dep) for reader in readers for dep in reader.deps)
    return any(outs & {dep, *dep.parents} for dep in deps)
