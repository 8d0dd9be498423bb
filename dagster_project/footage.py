"""The user's own footage, as params.yaml names it: where it lies, and whether DVC looks at it. Never dagster."""

from pathlib import Path
from typing import Any

from dagster_dvc.project import DvcProject, ProjectError

STAGE = "raw_video"
WATCHED = ("folder", "recordings", "lerobot", "vpt")


def source_folder(project: DvcProject) -> Path | None:
    """The folder of videos or recordings that params.yaml names, None when clips are rendered or come from tars.

    Raises:
        ProjectError: dvc.yaml no longer has the stage, or DVC cannot resolve it.
    """
    paths = [block.get("path") for kind, block in _blocks(project).items() if kind in WATCHED]
    return next((project.root / path for path in paths if isinstance(path, str)), None)


def is_dependency(project: DvcProject, path: Path) -> bool:
    """Whether DVC itself looks at the path: it, or a folder that it lies in, is among the stage's deps."""
    place = path.resolve()
    return any((project.root / dep).resolve() in (place, *place.parents) for dep in project.stages[STAGE].deps)


def unwatched(project: DvcProject) -> list[str]:
    """A line for each place of footage where DVC will not notice new files; none where the stage is not there."""
    try:
        named = [*filter(None, [source_folder(project)]), *_local_tars(project)]
    except ProjectError:
        return []
    lines = []
    for path in named:
        if not is_dependency(project, path):
            shown = path.relative_to(project.root) if path.is_relative_to(project.root) else path
            lines.append(
                f"dvc.yaml: {STAGE}: {shown} is not in deps, so new and changed files there make nothing stale; "
                f"add `{shown}`."
            )
    return lines


def _blocks(project: DvcProject) -> dict[str, dict[str, Any]]:
    """The blocks of ``raw_video.source`` that hold something."""
    values = project.stage(STAGE).params.get("params.yaml", {}).get(STAGE, {})
    source = values.get("source") if isinstance(values, dict) else None
    return {kind: one for kind, one in source.items() if isinstance(one, dict)} if isinstance(source, dict) else {}


def _local_tars(project: DvcProject) -> list[Path]:
    """Tars by path; those of a counted name (``{000..012}``) and of a URL are not looked at."""
    urls = _blocks(project).get("tars", {}).get("urls") or []
    return [project.root / url for url in urls if isinstance(url, str) and "://" not in url and "{" not in url]
