"""The user's own footage, as params.yaml names it: where it lies, and whether DVC looks at it. Never dagster."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from dagster_dvc.lock import read_lock
from dagster_dvc.project import DvcProject, ProjectError

STAGE = "raw_video"
WATCHED = ("folder", "recordings", "lerobot", "vpt")
READ = "read.json"
"""What the launcher notes in the stage's work folder: every file that the last run has read, with its size."""


def source_folder(project: DvcProject) -> Path | None:
    """The folder of videos or recordings that params.yaml names, None when clips are rendered or come from tars.

    Raises:
        ProjectError: dvc.yaml no longer has the stage, or DVC cannot resolve it.
    """
    paths = [block.get("path") for kind, block in _blocks(project).items() if kind in WATCHED]
    return next((project.root / path for path in paths if isinstance(path, str)), None)


def dependency(project: DvcProject, path: Path) -> str | None:
    """The dependency of the stage that is the path, or a folder that it lies in; None where DVC does not look at it."""
    place = path.resolve()
    deps = project.stages[STAGE].deps
    return next((dep for dep in deps if (project.root / dep).resolve() in (place, *place.parents)), None)


def is_recorded(project: DvcProject, dep: str) -> bool:
    """Whether dvc.lock says that the stage was run on what lies at its dependency now."""
    entry = read_lock(project).get(STAGE)
    recorded = entry.deps.get(dep) if entry else None
    now = project.hashes.of(dep) if recorded else None
    project.hashes.save()
    return recorded is not None and now == recorded.hash


def listing(project: DvcProject, folder: Path) -> str:
    """A digest of names, sizes and times of all files that DVC would look at: cheap, also for terabytes of video."""
    lines = []
    for file in project.hashes.files(folder):
        with contextlib.suppress(OSError):  # gone since it was listed: a copy that got its name
            facts = file.stat()
            lines.append(f"{file.relative_to(folder)} {facts.st_size} {facts.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def unwatched(project: DvcProject) -> list[str]:
    """A line for each place of footage where DVC will not notice new files; none where the stage is not there."""
    try:
        named = [*filter(None, [source_folder(project)]), *_local_tars(project)]
    except ProjectError:
        return []
    lines = []
    for path in named:
        if dependency(project, path) is None:
            shown = path.relative_to(project.root) if path.is_relative_to(project.root) else path
            lines.append(
                f"dvc.yaml: {STAGE}: {shown} is not in deps, so new and changed files there make nothing stale; "
                f"add `{shown}`."
            )
        lines += [_linked(project, link) for link in project.hashes.linked(path)]
    return lines


def _linked(project: DvcProject, link: Path) -> str:
    shown = link.relative_to(project.root) if link.is_relative_to(project.root) else link
    return (
        f"dvc.yaml: {STAGE}: {shown} is a linked folder: its files are read, but DVC does not look into it, so new and "
        f"changed files there make nothing stale; add `{link.resolve()}` to deps."
    )


def unread(project: DvcProject) -> list[str]:
    """A line when dvc.lock records files as read that came after the stage's last look at its sources.

    The launcher looks until nothing moves, and DVC hashes a moment later: what comes in between is recorded unread.
    """
    try:
        read = json.loads((project.root / ".work" / STAGE / READ).read_text(encoding="utf-8"))
        deps = [dep for dep in project.data_deps(project.stage(STAGE)) if project.producer(dep) is None]
    except (OSError, ValueError):  # never run by this launcher, or the stage is gone
        return []
    folders = [project.root / dep for dep in deps if (project.root / dep).is_dir() and is_recorded(project, dep)]
    files = [file.relative_to(project.root).as_posix() for folder in folders for file in project.hashes.files(folder)]
    late = [file for file in files if read.get(file, [-1])[0] != (project.root / file).stat().st_size]
    if not late:
        return []
    named = ", ".join(late[:3]) + (f" and {len(late) - 3} more" if len(late) > 3 else "")
    return [f"{STAGE}: {named} came as the stage ended and is recorded, but not read: `dvc repro --force {STAGE}`."]


def _blocks(project: DvcProject) -> dict[str, dict[str, Any]]:
    """The blocks of ``raw_video.source`` that hold something."""
    values = project.stage(STAGE).params.get("params.yaml", {}).get(STAGE, {})
    source = values.get("source") if isinstance(values, dict) else None
    return {kind: one for kind, one in source.items() if isinstance(one, dict)} if isinstance(source, dict) else {}


def _local_tars(project: DvcProject) -> list[Path]:
    """Tars by path; those of a counted name (``{000..012}``) and of a URL are not looked at."""
    blocks = _blocks(project)
    urls = [url for kind in ("tars", "webdataset") for url in blocks.get(kind, {}).get("urls") or []]
    return [project.root / url for url in urls if isinstance(url, str) and "://" not in url and "{" not in url]
