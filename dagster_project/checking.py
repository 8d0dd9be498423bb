"""`reel check`, and what is looked at before anything is run: mistakes with file and line, while nothing is lost."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator

from dagster_dvc import doctor, marks
from dagster_dvc.generated import generated
from dagster_dvc.project import DvcProject
from dagster_dvc.remembered import keep
from dagster_project import footage

KEPT = "checked.json"
"""Where it is kept of which files a check found nothing wrong."""
PLACE = re.compile(r"[^:\s]+:\d+:")
"""File and line that a complaint begins with."""
SETTLED_NS = 2_000_000_000
"""A file that was written so lately may be written again within the resolution of its time."""


def check(project: DvcProject) -> int:
    """`reel check`: the graph, the lock file and the parameters; every complaint with file and line."""
    complaints = doctor.complaints(project)
    said = _said_wrong(project, "entries")
    complaints += [] if complaints or said else generated(project).problems.values()
    places = {place[0] for line in said if (place := PLACE.match(line))}
    for complaint in complaints:
        place = PLACE.match(complaint)
        if place is None or place[0] not in places:  # what both have found is told once
            print(complaint, file=sys.stderr)
    if said or complaints:
        return 1
    for line in [*footage.unwatched(project), *footage.unread(project)]:
        print(f"warn  {line}")
    print(f"params.yaml can be used. dvc.yaml: {len(project.stages)} stages; dvc.lock can be read.")
    return 0


def params_are_wrong(project: DvcProject) -> bool:
    """Whether params.yaml has a mistake, said on stderr: DVC deletes outputs before a stage could say so."""
    return bool(_said_wrong(project, "params"))


def _said_wrong(project: DvcProject, module: str) -> list[str]:
    """The lines, said on stderr, in which a module of the project's own that checks it tells what it has found.

    A check that found nothing is not made again while no file that it looks at is another.
    """
    if not (project.root / "pipelines" / f"{module}.py").is_file():
        return []
    looked_at = sorted(_looked_at(project))
    state, kept = _state(project, looked_at), _kept(project)
    if state is not None and kept.get(module) == state:
        return []
    import subprocess

    command = [sys.executable, "-m", f"pipelines.{module}"]
    done = subprocess.run(
        command, cwd=project.root, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    print(done.stderr, end="", file=sys.stderr, flush=True)
    if done.returncode:
        return done.stderr.splitlines() or [f"{module}: exit status {done.returncode}"]
    if state is not None:
        keep(project.scratch / KEPT, {**kept, module: state})
    return []


def _looked_at(project: DvcProject) -> Iterator[str]:
    """What the checks read, or ask whether it is there; relative to the project."""
    yield from ("params.yaml", "dvc.yaml")
    for folder, ending in (("pipelines", ".py"), ("docs", ".md")):
        for parent, folders, files in os.walk(project.root / folder):
            folders[:] = [name for name in folders if name not in marks.PASSED]
            here = os.path.relpath(parent, project.root)
            yield from (f"{here}/{name}" for name in files if name.endswith(ending))


def _state(project: DvcProject, looked_at: list[str]) -> str | None:
    """One word for the interpreter, its packages, the files and what stages read; None while a file is being edited."""
    dependencies = sorted({dep for stage in project.stages.values() for dep in stage.deps})
    there = [(project.root / dep).exists() or (project.root / f"{dep}.dvc").exists() for dep in dependencies]
    packages = [path for path in sys.path if path.endswith("site-packages")]
    if time.time_ns() - _latest(project, looked_at) < SETTLED_NS:
        return None
    listed = {"": [*looked_at, *packages]}
    return f"{sys.version} {marks.digest(project.root, listed)} {dict(zip(dependencies, there, strict=True))}"


def _latest(project: DvcProject, looked_at: list[str]) -> int:
    times = []
    for path in looked_at:
        try:
            times.append(os.stat(f"{project.root}/{path}").st_mtime_ns)  # noqa: PTH116 (a Path costs more)
        except OSError:
            return time.time_ns()
    return max(times)


def _kept(project: DvcProject) -> dict[str, str]:
    try:
        kept = json.loads((project.scratch / KEPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
