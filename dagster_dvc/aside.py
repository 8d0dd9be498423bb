"""Stages that are set aside: marked ``meta.dagster.optional`` and never run, so left out until they are named.

From its first run on such a stage is one like the others: nothing stale stands beside fresh results.
"""

from typing import Any

from dagster_dvc.lock import read_lock


def set_aside(project: Any) -> set[str]:
    """Names of the stages of a :class:`dagster_dvc.project.DvcProject` that no pattern, group or plus selects."""
    marked = {name for name, stage in project.stages.items() if stage.dagster.get("optional")}
    return marked - read_lock(project).keys() if marked else set()
