"""The graph as DVC resolves it, kept in ``.dvc/tmp/dagster_dvc/manifest.json`` until a file it was read from changes.

`dagster_dvc.manifest` runs as a process of its own. Of a graph that could not be resolved nothing is kept: what mends
it may be a file that DVC never came to. Then the last good one is shown, with the complaint among its problems.
"""

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_dvc.hashing import sha256_of
from dagster_dvc.problem import Problem, ProjectError
from dagster_dvc.remembered import keep

if TYPE_CHECKING:
    import subprocess

VERSION = 9
"""Of the manifest, as `dagster_dvc.manifest` writes it."""
FILE = "manifest.json"


def resolved(root: Path, scratch: Path) -> dict[str, Any]:
    """The manifest of the project at `root`; `scratch` is where it is kept.

    Raises:
        ProjectError: nothing can be resolved and never could, with file and line.
    """
    kept = _kept(scratch / FILE)
    if kept and _is_current(root, kept):
        return kept
    try:
        fresh = _read(root)
    except ProjectError as error:
        if not kept:
            raise
        return _with_problems(kept, [{"stage": None, **_place(error)}])
    if not fresh["unresolved"]:
        keep(scratch / FILE, fresh)
        return fresh
    problems = [found for found in fresh["problems"] if found["stage"] is None]
    if kept:
        return _with_problems(kept, problems)
    if not fresh["stages"]:
        raise ProjectError("\n".join(str(Problem(**problem)) for problem in problems))
    return fresh


def _kept(file: Path) -> dict[str, Any] | None:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(kept, dict):
        return None
    return kept if (kept.get("version"), kept.get("dvc")) == (VERSION, dvc_version()) else None


def dvc_version() -> str:
    """The version of the DVC that is installed, without importing it.

    Its own ``_version.py`` says it; to import the standard library's reader of package data takes as long as the rest
    of ``reel status``.
    """
    found = PathFinder.find_spec("dvc")
    for place in (found and found.submodule_search_locations) or ():
        file = Path(place, "_version.py")
        said = re.search(r"^__version__ .*?['\"](.+?)['\"]", file.read_text("utf-8"), re.M) if file.is_file() else None
        if said:
            return said[1]
    from importlib.metadata import version  # here: for an installation of another kind

    return version("dvc")


def _is_current(root: Path, manifest: Mapping[str, Any]) -> bool:
    files: Mapping[str, str | None] = manifest["files"]
    found = {
        str(path.relative_to(root))
        for pattern in ("dvc.yaml", "*/dvc.yaml", "*.dvc", "*/*.dvc", ".dvcignore", "*/.dvcignore")
        for path in root.glob(pattern)
        if path.is_file()
    }
    return found <= files.keys() and all(sha256_of(root / file) == kept for file, kept in files.items())


def _read(root: Path) -> dict[str, Any]:
    if not (root / ".dvc").is_dir():
        raise ProjectError(f"{root}: not a DVC project (no .dvc folder); run `dvc init --no-scm` there")
    done = asked(root)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["DVC gave no reason"]
        raise ProjectError(lines[-1])
    return json.loads(done.stdout)


def asked(root: Path) -> "subprocess.CompletedProcess[str]":
    """What DVC says of the project at `root`, from a process of its own: `dagster_dvc.manifest` on standard output."""
    import subprocess  # here: a kept graph needs none

    command = [sys.executable, "-P", "-m", "dagster_dvc.manifest", str(root)]
    package = str(Path(__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}
    return subprocess.run(command, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL, check=False)


def _place(error: ProjectError) -> dict[str, Any]:
    """A complaint taken apart: ``file:line: what``."""
    found = re.match(r"([^:\n]+):(\d+): (.*)", str(error), re.DOTALL)
    file, line, message = found.groups() if found else ("dvc.yaml", "1", str(error))
    return {"file": file, "line": int(line), "message": message}


def _with_problems(kept: Mapping[str, Any], problems: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    shown = [{**one, "message": f"{one['message']}; showing the last graph that could be read"} for one in problems]
    return {**kept, "problems": [*kept["problems"], *shown]}
