"""What is wrong with a DVC project, before anything runs: one line each, with file and line where there is one."""

from dagster_dvc import meta, run_cache
from dagster_dvc.lock import read_lock
from dagster_dvc.project import DvcProject, ProjectError


def complaints(project: DvcProject) -> list[str]:
    """Stages that cannot be resolved, mistakes in ``meta.dagster``, parameters that DVC trips over, a broken lock."""
    found = [str(problem) for problem in project.problems]
    for stage in project.stages.values():
        found += meta.complaints(stage)
        found += run_cache.complaints(project, stage)
    try:
        read_lock(project)
    except ProjectError as error:
        found.append(str(error))
    return found
