"""A full look at sources and outputs, in a process of its own: ``python -m dagster_dvc.look <root>``.

It hashes what it must and writes ``.dvc/tmp/dagster_dvc/look.json``: the hash of every source, the stages whose
outputs are not what dvc.lock records and why, and what to stat to notice that this is no longer so. A sensor that may
not spend seconds starts it and reads the answer at a later tick.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagster_dvc import marks
from dagster_dvc.lock import lock_digest, read_lock
from dagster_dvc.project import DvcProject, ProjectError
from dagster_dvc.remembered import keep
from dagster_dvc.status import changed_outputs, source_version

FILE = "look.json"


@dataclass(frozen=True)
class Look:
    """What a look has found, and the marks by which it can be told that it still holds."""

    marks: str
    listed: dict[str, list[str]]
    versions: dict[str, str]
    wrong: dict[str, list[str]]


def watched(project: DvcProject) -> list[str]:
    """The paths that a look is at: outputs, and data that no stage makes."""
    outs = [out.path for stage in project.stages.values() for out in stage.outs]
    return sorted(path for path in {*outs, *project.sources} if "://" not in path)


def state(project: DvcProject, listed: dict[str, list[str]]) -> str:
    """The marks of a project: what is listed (unlisted paths by themselves), and dvc.lock."""
    wanted = {path: listed.get(path, [path]) for path in watched(project)}
    return f"{marks.digest(project.root, wanted)} {lock_digest(project)}"


def look(project: DvcProject) -> Look:
    """Look at everything. What changes meanwhile makes the marks others, so that another look follows."""
    listed = {path: marks.listing(project.root, path) for path in watched(project)}
    before, lock = state(project, listed), read_lock(project)
    recorded = [stage for stage in project.stages.values() if stage.name in lock]
    with project.hashes.held():
        versions = {path: source_version(project, path) for path in project.sources}
        wrong = {stage.name: [str(why) for why in changed_outputs(project, stage)] for stage in recorded}
    project.hashes.save()
    return Look(before, listed, versions, {name: why for name, why in wrong.items() if why})


def read(scratch: Path) -> Look | None:
    """The last look that ended, if there was one."""
    try:
        held: dict[str, Any] = json.loads((scratch / FILE).read_text(encoding="utf-8"))
        return Look(**held)
    except (OSError, ValueError, TypeError):
        return None


def main() -> int:
    """Look at the project named by the first argument and keep what was found."""
    project = DvcProject(sys.argv[1])
    try:
        found = look(project)
    except ProjectError as error:
        print(error, file=sys.stderr)
        return 1
    keep(project.scratch / FILE, vars(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
