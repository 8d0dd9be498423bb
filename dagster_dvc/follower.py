"""What the sensors remember between two ticks, in the process of the code location: so that an idle tick costs stats.

A tick lists no folder, hashes no file and parses neither the manifest nor the hash memory unless something moved.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg

from dagster_dvc import look, marks
from dagster_dvc.environment import environment
from dagster_dvc.events import observe_sources, reconcile, report_sync, unsettled
from dagster_dvc.lock import lock_digest
from dagster_dvc.project import DvcProject
from dagster_dvc.running import running
from dagster_dvc.translator import Assets, DvcTranslator

SETTLED_SECONDS = 3.0
VERSION = 2
"""Of the cursor: another one makes everything be compared once more."""


@dataclass(frozen=True)
class SeenState:
    """The cursor of the lock sensor: the digest of dvc.lock that was reported, and the marks of the disk."""

    lock: str | None = None
    disk: str | None = None
    version: int = VERSION


class Graph:
    """The project as it was resolved, until a file of the graph moves."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._project: DvcProject | None = None
        self._marks = ""

    def now(self) -> DvcProject:
        """The project; the same object while no file moved that its graph was read from.

        Raises:
            ProjectError: it cannot be read, and never could.
        """
        if self._project is None or self._marks != self._mark(self._project):
            self._project = None
            found = DvcProject(self._root)
            before = self._mark(found)
            if not found.problems:
                self._project, self._marks = found, before
            return found
        return self._project

    def _mark(self, project: DvcProject) -> str:
        """Files of the graph, and the folders in which another dvc.yaml may appear."""
        folders = [".", *(entry.name for entry in os.scandir(self._root) if entry.is_dir(follow_symlinks=False))]
        return marks.digest(self._root, {"files": sorted(project.manifest["files"]), "folders": sorted(folders)})


class Follower:
    """The lock sensor's work: reports what dvc.lock says at once, and what a full look finds when it has ended."""

    def __init__(self, root: Path, translator: DvcTranslator | None = None) -> None:
        self._graph = Graph(root)
        self._translator = translator
        self._look: look.Look | None = None
        self._read = 0
        self._looking: subprocess.Popen[str] | None = None
        self._failed = ""
        self._due: set[str] = set()
        """Stages with a new result whose outputs have not been compared since."""

    def tick(self, opened: Callable[[], dg.DagsterInstance], cursor: str | None) -> tuple[str, str | None]:
        """One evaluation: what to say, and the next cursor.

        The instance is opened when there is something to report: that costs more than all the rest of an idle tick.

        Raises:
            ProjectError: the project or its lock file cannot be read.
        """
        project = self._graph.now()
        if project.problems:
            return f"waiting for a valid dvc.yaml: {project.problems[0]}", cursor
        before, now = _seen(cursor), SeenState(lock_digest(project), self._disk(project))
        if now == before:
            return "nothing new", cursor
        if not _settled(project):
            return "dvc.lock has just been written", cursor
        instance, fresh = opened(), DvcProject(project.root)
        fresh.__dict__["manifest"] = project.manifest
        assets = Assets(fresh, self._translator)
        reported = reconcile(instance, assets) if now.lock != before.lock else []
        self._due |= {name for (name, _), key in assets.keys.items() if key in reported}
        said = [_count(reported, "stage output")]
        waits = self._waits(fresh, str(now.disk))
        if waits or self._look is None:
            return _text(said) or waits, _cursor(SeenState(now.lock, before.disk))
        said.insert(0, _count(observe_sources(instance, assets, self._look.versions), "changed source"))
        said.append(_count(report_sync(instance, assets, self._look.wrong, self._due), "check"))
        self._due = unsettled(instance, assets)
        return _text(said) or "nothing new", _cursor(SeenState(now.lock, before.disk) if self._due else now)

    def wait(self) -> None:
        """Wait until the look that a tick has started has ended."""
        if self._looking is not None:
            self._looking.wait()

    def _disk(self, project: DvcProject) -> str:
        file = project.scratch / look.FILE
        written = file.stat().st_mtime_ns if file.is_file() else 0
        if written != self._read:
            self._look, self._read = look.read(project.scratch), written
        return look.state(project, self._look.listed if self._look else {})

    def _waits(self, project: DvcProject, disk: str) -> str:
        """Why there is no answer yet; starts a look where there is none for the state of the disk."""
        if self._look is not None and self._look.marks == disk:
            self.wait()  # it has written its answer: it is about to end
            return ""
        if self._looking is not None and self._looking.poll() is None:
            return "looking at what changed on disk"
        if self._looking is not None and self._looking.returncode and self._failed == disk:
            return "what changed on disk could not be looked at: see `reel status`"
        if running(project):
            return "waiting for a running stage before looking at the disk"
        self._failed = disk
        command = [sys.executable, "-P", "-m", "dagster_dvc.look", str(project.root)]
        package = str(Path(__file__).parents[1])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self._looking = subprocess.Popen(
            command, env=environment({"PYTHONPATH": path}), stdin=subprocess.DEVNULL, text=True
        )
        return "looking at what changed on disk"


class Fingerprint:
    """`DvcProject.fingerprint`, computed anew only when a file of the graph or of the code moved."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listed: dict[str, list[str]] = {}
        self._marks, self._value = "", ""

    def now(self) -> str:
        """The fingerprint of the project as it is on disk.

        Raises:
            ProjectError: it cannot be read, and never could.
        """
        if not self._listed or marks.digest(self._root, self._listed) != self._marks:
            project = DvcProject(self._root)
            code = {dep for stage in project.stages.values() for dep in project.code_deps(stage)}
            self._listed = {path: marks.listing(self._root, path) for path in {*code, *project.manifest["files"]}}
            self._marks = marks.digest(self._root, self._listed)
            self._value = project.fingerprint()
        return self._value


def _seen(cursor: str | None) -> SeenState:
    try:
        found = SeenState(**json.loads(cursor or ""))
    except (ValueError, TypeError):
        return SeenState()
    return found if found.version == VERSION else SeenState()


def _cursor(seen: SeenState) -> str:
    return json.dumps(asdict(seen))


def _settled(project: DvcProject) -> bool:
    locks = {project.root / Path(stage.file).with_suffix(".lock") for stage in project.stages.values()}
    newest = max((lock.stat().st_mtime for lock in locks if lock.is_file()), default=0.0)
    return time.time() - newest > SETTLED_SECONDS


def _text(said: list[str]) -> str:
    text = ", ".join(part for part in said if part)
    return f"reported {text}" if text else ""


def _count(items: list[dg.AssetKey], noun: str) -> str:
    return f"{len(items)} {noun}{'s' if len(items) > 1 else ''}" if items else ""
