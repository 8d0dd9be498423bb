"""The Dagster code location: the lineage of dvc.yaml with jobs, schedules, sensors and the executor.

``dagster dev`` (or `reel ui`) and ``dagster asset materialize --select '*' -m dagster_project.definitions`` load this.
It imports no torch and no dvc.
"""

from typing import Any

import dagster as dg

from assets.stages import TRANSLATOR, stage_assets
from dagster_dvc.history import build_history_sensor
from dagster_dvc.project import DvcProject
from dagster_dvc.sensors import build_lock_sensor, build_reload_sensor
from dagster_project.footage import STAGE
from dagster_project.home import jobs as side_by_side
from dagster_project.home import of_elsewhere, project_root
from dagster_project.incoming import FetchingResource
from dagster_project.jobs import build_jobs, build_promotion_job
from dagster_project.promoting import JUDGE
from dagster_project.schedules import build_schedules
from dagster_project.sensors import build_clips_sensor, build_promotion_sensor

AUTOMATION = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    minimum_interval_seconds=30,
    description="Runs stages whose meta.dagster.automation asks for it when what they read changed: the report.",
)
"""Shipped stopped, as everything that starts runs by itself."""
PRELOADED = ["dagster", "dagster_project.definitions"]


def build_definitions(project: DvcProject) -> dg.Definitions:
    """Everything Dagster shows of a project.

    Raises:
        ProjectError: dvc.yaml cannot be read and never could.
    """
    for problem in project.problems:
        dg.get_dagster_logger("dvc").warning(str(problem))
    jobs = build_jobs(project)
    sensors: list[Any] = [build_lock_sensor(project, translator=TRANSLATOR), build_reload_sensor(project)]
    sensors += [AUTOMATION, build_history_sensor()]
    if STAGE in project.stages and "refresh_data" in jobs:
        sensors.append(build_clips_sensor(project, jobs["refresh_data"]))
    promotion = build_promotion_job(project)
    if JUDGE in project.stages and "everything" in jobs:
        sensors.append(build_promotion_sensor(jobs["everything"], promotion))
    return dg.Definitions(
        assets=stage_assets(project),
        jobs=[*jobs.values(), promotion],
        schedules=build_schedules(jobs),
        sensors=sensors,
        resources={"dvc": FetchingResource()},
        executor=dg.multiprocess_executor.configured(
            {
                "max_concurrent": side_by_side(),
                "start_method": {"forkserver": {"preload_modules": PRELOADED}},
            }
        ),
    )


def _load() -> dg.Definitions:
    root = project_root()
    elsewhere = of_elsewhere(root)
    if elsewhere:
        dg.get_dagster_logger("dvc").warning(f"this code location {elsewhere}")
    return build_definitions(DvcProject(root))


defs = _load()
