"""A sensor on a user's own folder of videos: new files start the refresh."""

import hashlib
from pathlib import Path

import dagster as dg

from dagster_dvc.project import DvcProject
from dagster_project.jobs import Job

STAGE = "raw_video"
WATCHED = ("folder", "recordings")


def build_clips_sensor(project: DvcProject, job: Job) -> dg.SensorDefinition:
    """Starts `refresh_data` when files in the folder of ``raw_video.source`` appear, change or go. Shipped stopped."""

    @dg.sensor(
        name="new_clips",
        job=job,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Processes new or changed videos of params.yaml: raw_video.source.",
    )
    def new_clips(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        folder = source_folder(DvcProject(project.root))
        if folder is None:
            return dg.SkipReason("params.yaml: raw_video.source names no folder or recordings; nothing to watch")
        if not folder.is_dir():
            return dg.SkipReason(f"params.yaml: raw_video.source: {folder} is no folder")
        found = listing(folder)
        if context.cursor == found:
            return dg.SkipReason(f"nothing new in {folder}")
        if context.cursor is None:
            return dg.SensorResult(skip_reason="remembered what is there now", cursor=found)
        force = not _is_dependency(DvcProject(project.root), folder)
        config = {"ops": {f"repro_{STAGE}": {"config": {"force": force}}}}
        # No run key: files that go and come back are news twice, and the cursor already tells news from old.
        return dg.SensorResult(run_requests=[dg.RunRequest(run_config=config)], cursor=found)

    return new_clips


def source_folder(project: DvcProject) -> Path | None:
    """The folder of videos or recordings that params.yaml names, None when clips are rendered or come from tars."""
    values = project.stages[STAGE].params.get("params.yaml", {}).get(STAGE, {})
    source = values.get("source") if isinstance(values, dict) else None
    blocks = [source.get(kind) for kind in WATCHED] if isinstance(source, dict) else []
    paths = [block.get("path") for block in blocks if isinstance(block, dict)]
    return next((project.root / path for path in paths if isinstance(path, str)), None)


def _is_dependency(project: DvcProject, folder: Path) -> bool:
    """Whether DVC itself looks at the folder; otherwise the stage must be forced."""
    return any((project.root / dep).resolve() == folder.resolve() for dep in project.stages[STAGE].deps)


def listing(folder: Path) -> str:
    """A digest of names, sizes and times of all files: cheap, also for terabytes of video."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    lines = [f"{file.relative_to(folder)} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
