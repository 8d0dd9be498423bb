"""Params files that a stage makes: what they say now, and why a value in them changed.

Several stages may track one key each of such a file, so that an edit of what it is made from touches those stages only
whose key changes. The stage that makes the file may name, as ``meta.dagster.now``, a command that prints what the file
would hold if the stage ran now, and what made a value differ from the one in dvc.lock, as JSON::

    {"values": {file: {key: value}}, "why": {file: {key: [word, ...]}}}

Without it the file counts as it is, and a change of it is all that can be said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from dagster_dvc.lock import lock_digest, read_lock
from dagster_dvc.project import DvcProject, Stage
from dagster_dvc.values import as_json
from dagster_dvc.yaml12 import load

if TYPE_CHECKING:
    import subprocess

MOST_WORDS = 3
"""Of what changed, named in one reason."""


@dataclass(frozen=True)
class Generated:
    """What is known of all params files that stages make. `problems`: why the command of a stage could not tell."""

    values: Mapping[str, Mapping[str, Any]]
    why: Mapping[str, Mapping[str, list[str]]]
    problems: Mapping[str, str]


_KNOWN: WeakKeyDictionary[DvcProject, Generated] = WeakKeyDictionary()


def makers(project: DvcProject, stage: Stage) -> list[Stage]:
    """The stages that make a params file of this stage."""
    return list({made[0].name: made[0] for file in stage.params if (made := project.producer(file))}.values())


def is_outdated(project: DvcProject, maker: Stage) -> bool:
    """Whether a stage, or what it made, is not what dvc.lock records."""
    entry = read_lock(project).get(maker.name)
    if entry is None or entry.cmd != maker.cmd:
        return True
    recorded = {path: locked.hash for path, locked in {**entry.deps, **entry.outs}.items()}
    return any(project.hashes.of(path) != recorded.get(path) for path in [*maker.deps, *(o.path for o in maker.outs)])


def params_now(project: DvcProject, stage: Stage) -> dict[str, dict[str, Any]]:
    """The values of all keys that the stage tracks, as they would be if it ran now."""
    found = {}
    for file, values in stage.params.items():
        if project.producer(file) is None:
            found[file] = values
        else:
            told = generated(project).values.get(file, {})
            keys = stage.param_keys[file] or list(told)
            found[file] = as_json({key: value for key in keys if (value := _at(told, key)) is not None})
    return found


def why_changed(project: DvcProject, file: str, key: str) -> str:
    """What made a value of a generated file change since dvc.lock, as far as its maker can tell."""
    words = generated(project).why.get(file, {}).get(key) or []
    more = f" and {len(words) - MOST_WORDS} more" if len(words) > MOST_WORDS else ""
    return ", ".join(words[:MOST_WORDS]) + more if words else f"{file}: {key} changed"


def generated(project: DvcProject) -> Generated:
    """What the generated params files say now; asked once for a project as it is."""
    if project not in _KNOWN:
        _KNOWN[project] = _look(project)
    return _KNOWN[project]


def _look(project: DvcProject) -> Generated:
    files = {file: made[0] for s in project.stages.values() for file in s.params if (made := project.producer(file))}
    values: dict[str, Any] = {file: held(project, file) for file in files}
    why: dict[str, Any] = {}
    problems = {}
    for maker in {maker.name: maker for maker in files.values()}.values():
        command = maker.dagster.get("now")
        own = [file for file, by in files.items() if by is maker]
        if command and (is_outdated(project, maker) or _differs(project, own, values)):
            told = _told(project, maker, str(command))
            values |= told.get("values", {})
            why |= told.get("why", {})
            problems |= {maker.name: told["problem"]} if "problem" in told else {}
    return Generated(values, why, problems)


def _differs(project: DvcProject, files: list[str], values: Mapping[str, Any]) -> bool:
    """Whether a stage was recorded with another value than a file holds."""
    for entry in read_lock(project).values():
        for file in files:
            if any(_at(values[file], key) != value for key, value in entry.params.get(file, {}).items()):
                return True
    return False


def _told(project: DvcProject, maker: Stage, command: str) -> dict[str, Any]:
    """What the command of a stage prints, kept until the stage's dependencies or dvc.lock change."""
    kept = project.scratch / f"now.{maker.name.replace('/', '_')}.json"
    state = [command, maker.cmd, lock_digest(project), {dep: project.hashes.of(dep) for dep in maker.deps}]
    state = json.loads(json.dumps([*state, {out.path: project.hashes.of(out.path) for out in maker.outs}]))
    try:
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["state"] == state:
            return known["told"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    told = _ask(project, maker, command)
    if "problem" not in told:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"state": state, "told": told}), encoding="utf-8")
    return told


def run_beside(project: DvcProject, maker: Stage, command: str) -> subprocess.CompletedProcess[str]:
    """A command in the stage's folder, without a shell, its output kept; its exit code is the caller's to judge."""
    import shlex  # here: mostly what was told is kept
    import subprocess

    from dagster_dvc.environment import environment

    return subprocess.run(
        shlex.split(command),
        cwd=project.root / maker.wdir,
        env=environment(),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def _ask(project: DvcProject, maker: Stage, command: str) -> dict[str, Any]:
    done = run_beside(project, maker, command)
    try:
        if done.returncode == 0:
            return dict(json.loads(done.stdout))
    except ValueError:
        pass
    said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
    return {"problem": said.removeprefix(f"{maker.name}: ")}


def held(project: DvcProject, file: str) -> dict[str, Any]:
    """What a generated params file holds as it is on disk; empty where there is none, or it cannot be read."""
    try:
        text = (project.root / file).read_text(encoding="utf-8")
        found = json.loads(text) if file.endswith(".json") else load(text)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _at(values: Any, key: str) -> Any:
    """The value of a key, which may be a path of keys with dots between."""
    if isinstance(values, Mapping) and key in values:
        return values[key]
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return None
        values = values[part]
    return values
