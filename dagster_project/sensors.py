"""A sensor on a user's own folder of videos: new files start the refresh, once they are whole, until it is recorded."""

import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg

from dagster_dvc.lock import lock_digest
from dagster_dvc.project import DvcProject, ProjectError
from dagster_dvc.running import running
from dagster_project.footage import STAGE, dependency, is_recorded, listing, source_folder
from dagster_project.jobs import Job

CLIPS = "reelgraph/clips"
"""Tag of a run that the sensor asked for: the listing that it is to process."""
TRIES = 3
"""Runs for one listing; when none of them is recorded, a person must look."""
ENDED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}


@dataclass(frozen=True)
class Remembered:
    """The sensor's cursor: the last look's listing, the last one known to be recorded, and by which dvc.lock."""

    seen: str | None = None
    recorded: str | None = None
    lock: str | None = None


def build_promotion_sensor(retraining: Job, promotion: dg.JobDefinition) -> dg.SensorDefinition:
    """After a whole retraining that went well: asks which of its checkpoints may be released. Shipped stopped."""

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        name="promote_after_retraining",
        monitored_jobs=[retraining],
        request_job=promotion,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="After `everything` succeeded: releases checkpoints that are not worse than the released ones.",
    )
    def promote_after_retraining(context: dg.RunStatusSensorContext) -> dg.RunRequest:
        return dg.RunRequest(run_key=context.dagster_run.run_id)

    return promote_after_retraining


def build_clips_sensor(project: DvcProject, job: Job) -> dg.SensorDefinition:
    """Starts `refresh_data` when files in the folder of ``raw_video.source`` appear, change or go. Shipped stopped.

    It waits until two looks in a row find the same names, sizes and times: a file still being copied is no clip. Files
    are news until dvc.lock records them: a run that fails, or that they came too late for, is followed by another.
    """

    @dg.sensor(
        name="new_clips",
        job=job,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Processes new or changed videos of params.yaml: raw_video.source, once no file grows any more.",
    )
    def new_clips(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            now = DvcProject(project.root)
            folder = source_folder(now)
            if folder is None:
                return dg.SkipReason("params.yaml: raw_video.source names no folder or recordings; nothing to watch")
            if not folder.is_dir():
                return dg.SkipReason(f"params.yaml: raw_video.source: {folder} is no folder")
            return _look(context, now, folder, _asked(context, job.name))
        except ProjectError as error:
            return dg.SkipReason(str(error))

    return new_clips


def _asked(context: dg.SensorEvaluationContext, job: str) -> list[dg.DagsterRun]:
    """The last runs that the sensor asked for, newest first."""
    runs = context.instance.get_runs(dg.RunsFilter(job_name=job), limit=50)
    return [run for run in runs if CLIPS in run.tags]


def _look(
    context: dg.SensorEvaluationContext, project: DvcProject, folder: Path, asked: list[dg.DagsterRun]
) -> dg.SensorResult:
    before, found, lock = _remembered(context.cursor), listing(project, folder), lock_digest(project)
    dep = dependency(project, folder)
    if dep is None and before.recorded is None:  # DVC cannot say what was processed before the first look
        return _result("remembered what is there now", Remembered(found, found))
    if _is_known(project, dep, before, Remembered(found, found, lock), asked):
        return _result(f"nothing new in {folder}", Remembered(found, found, lock))
    memory = Remembered(found, before.recorded, before.lock)
    if found != before.seen:
        waits = f"files in {folder} are changing; a run starts when two looks in a row find the same"
        return _result(waits, memory)
    tries = list(itertools.takewhile(lambda run: run.tags[CLIPS] == found, asked))
    if STAGE in running(project) or any(run.status not in ENDED for run in tries):
        return _result(f"what is new in {folder} is being processed", memory)
    if len(tries) >= TRIES:
        return _result(f"{TRIES} runs did not record what is new in {folder}: see the last one's error", memory)
    config = {"ops": {f"repro_{STAGE}": {"config": {"force": dep is None}}}}
    # No run key: files that go and come back are news twice, and dvc.lock already tells news from old.
    request = dg.RunRequest(run_config=config, tags={CLIPS: found})
    return dg.SensorResult(run_requests=[request], cursor=json.dumps(asdict(memory)))


def _is_known(
    project: DvcProject, dep: str | None, before: Remembered, now: Remembered, asked: list[dg.DagsterRun]
) -> bool:
    """Whether the listing is recorded: by dvc.lock where DVC looks at the folder, else by the last run that went well.

    Content is hashed only when names, sizes, times or dvc.lock are others than at the last look.
    """
    if now.recorded == before.recorded and (dep is None or now.lock == before.lock):
        return True
    if dep is not None:
        return is_recorded(project, dep)
    last = next((run for run in asked if run.status == dg.DagsterRunStatus.SUCCESS), None)
    return last is not None and last.tags[CLIPS] == now.recorded


def _result(reason: str, memory: Remembered) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=reason, cursor=json.dumps(asdict(memory)))


def _remembered(cursor: str | None) -> Remembered:
    """What the cursor holds; one of an earlier version is as good as none."""
    try:
        return Remembered(**json.loads(cursor or ""))
    except (ValueError, TypeError):
        return Remembered()
