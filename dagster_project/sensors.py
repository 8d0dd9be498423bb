"""A sensor on a user's own folder of videos: new files start the refresh, once they are whole."""

import contextlib
import hashlib
import json
from pathlib import Path

import dagster as dg

from dagster_dvc.project import DvcProject, ProjectError
from dagster_project.footage import STAGE, is_dependency, source_folder
from dagster_project.jobs import Job


def build_clips_sensor(project: DvcProject, job: Job) -> dg.SensorDefinition:
    """Starts `refresh_data` when files in the folder of ``raw_video.source`` appear, change or go. Shipped stopped.

    It waits until two looks in a row find the same names, sizes and times: a file still being copied is no clip.
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
        except ProjectError as error:
            return dg.SkipReason(str(error))
        if folder is None:
            return dg.SkipReason("params.yaml: raw_video.source names no folder or recordings; nothing to watch")
        if not folder.is_dir():
            return dg.SkipReason(f"params.yaml: raw_video.source: {folder} is no folder")
        found, (handled, before) = listing(folder), _remembered(context.cursor)
        if found == handled == before:
            return dg.SkipReason(f"nothing new in {folder}")
        if handled is None:
            return dg.SensorResult(skip_reason="remembered what is there now", cursor=json.dumps([found, found]))
        if found != before:
            waits = f"files in {folder} are changing; a run starts when two looks in a row find the same"
            return dg.SensorResult(skip_reason=waits, cursor=json.dumps([handled, found]))
        config = {"ops": {f"repro_{STAGE}": {"config": {"force": not is_dependency(now, folder)}}}}
        # No run key: files that go and come back are news twice, and the cursor already tells news from old.
        return dg.SensorResult(run_requests=[dg.RunRequest(run_config=config)], cursor=json.dumps([found, found]))

    return new_clips


def _remembered(cursor: str | None) -> tuple[str | None, str | None]:
    """The listing that the last run was started for (or the first look saw), and the listing of the last look."""
    try:
        handled, before = json.loads(cursor or "")
    except ValueError:
        return None, None
    return handled, before


def listing(folder: Path) -> str:
    """A digest of names, sizes and times of all files: cheap, also for terabytes of video."""
    lines = []
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # gone since it was listed: a copy that got its name
            if file.is_file():
                facts = file.stat()
                lines.append(f"{file.relative_to(folder)} {facts.st_size} {facts.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
