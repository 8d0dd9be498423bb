"""Where a result came from, by content hash, also when it is no longer in the workspace nor in git.

Every entry of DVC's run cache (``.dvc/cache/runs``) is a complete record of one run: command, params, hashes read and
written. Together with dvc.lock, and with its earlier versions where there is git, they answer for any past result until
the cache is cleaned with ``dvc gc``.
"""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dagster_dvc.lock import Entry, entry, read_lock
from dagster_dvc.lock_file import Yaml12
from dagster_dvc.project import DvcProject, ProjectError

MOST_COMMITS = 300


@dataclass(frozen=True)
class Record:
    """One recorded run and where the record was found."""

    stage: str
    origin: str
    entry: Entry = field(hash=False, compare=False)


def records(project: DvcProject) -> Iterator[Record]:
    """Every recorded run: dvc.lock, then the run cache, then dvc.lock's versions in git."""
    for name, locked in read_lock(project).items():
        yield Record(name, "dvc.lock", locked)
    runs = project.root / ".dvc" / "cache" / "runs"
    for file in sorted(runs.glob("??/*/*")) if runs.is_dir() else []:
        raw = _yaml(file.read_text(encoding="utf-8"))
        if raw:
            yield _named(project, "run cache", raw)
    for commit in _git(project.root, "log", f"-{MOST_COMMITS}", "--format=%H", "--", "dvc.lock").split():
        stages = _yaml(_git(project.root, "show", f"{commit}:dvc.lock")).get("stages") or {}
        for name, raw in stages.items():
            yield Record(name, f"git {commit[:10]}", entry(raw))


def tree(project: DvcProject, what: str) -> str:
    """The tree behind a stage, a path, or the first characters (four or more) of a hash, as indented text.

    Raises:
        ProjectError: nothing of that name or hash was ever recorded.
    """
    by_output: dict[tuple[str, str], Record] = {}
    for record in records(project):
        for out in record.entry.outs.values():
            if out.hash:
                by_output.setdefault((out.path, out.hash), record)
    roots = _roots(project, what, by_output)
    lines: list[str] = []
    seen: set[tuple[str, str]] = set()
    for root in roots:
        _write(project, root, by_output, seen, 0, lines)
    return "\n".join(lines)


def _roots(project: DvcProject, what: str, by_output: dict[tuple[str, str], Record]) -> list[tuple[str, str]]:
    path = what.rstrip("/").removeprefix("./")
    current = [(key, record) for key, record in by_output.items() if record.origin == "dvc.lock"]
    if path in project.stages:
        data = {out.path for out in project.stages[path].data_outs} or {out.path for out in project.stages[path].outs}
        found = [key for key, record in current if record.stage == path and key[0] in data]
    else:
        found = [key for key, _ in current if key[0] == path]
        found = found or [key for key in by_output if len(what) >= 4 and key[1].startswith(what)]
        found = found or [key for key in by_output if key[0] == path]
    if not found:
        raise ProjectError(
            f"no recorded run made '{what}'; give a stage ({', '.join(project.stages)}), an output's path, "
            "or the first characters of a hash"
        )
    return found


def _write(
    project: DvcProject,
    key: tuple[str, str],
    by_output: dict[tuple[str, str], Record],
    seen: set[tuple[str, str]],
    depth: int,
    lines: list[str],
) -> None:
    path, value = key
    indent = "  " * depth
    record = by_output.get(key)
    if record is None:
        lines.append(f"{indent}{path}  {value[:12]}  (source, or recorded nowhere)")
        return
    if key in seen:
        lines.append(f"{indent}{path}  {value[:12]}  by {record.stage} (above)")
        return
    seen.add(key)
    state = "in the workspace" if project.hashes.of(path) == value else "not in the workspace"
    lines.append(f"{indent}{path}  {value[:12]}  by {record.stage}, from {record.origin}, {state}")
    for file, values in record.entry.params.items():
        lines += [f"{indent}  {name} = {shown}" for name, shown in _flat(values, "" if file == "params.yaml" else file)]
    inputs = sorted(record.entry.deps.values(), key=lambda dep: (not project.is_code(dep.path), dep.path))
    for dep in inputs:
        if project.is_code(dep.path):
            lines.append(f"{indent}  code {dep.path}  {(dep.hash or '-')[:12]}")
        else:
            _write(project, (dep.path, dep.hash or "-"), by_output, seen, depth + 1, lines)


def _flat(values: object, name: str) -> list[tuple[str, object]]:
    if isinstance(values, dict) and values:
        return [pair for key, value in values.items() for pair in _flat(value, f"{name}.{key}" if name else str(key))]
    return [(name, values)]


def _named(project: DvcProject, origin: str, raw: dict[str, Any]) -> Record:
    """A run-cache entry carries no stage name: it is the stage that writes the same paths."""
    found = entry(raw)
    for stage in project.stages.values():
        placed = entry(raw, stage.wdir)
        if {out.path for out in stage.outs} & placed.outs.keys():
            return Record(stage.name, origin, placed)
    return Record("a stage that is no longer in dvc.yaml", origin, found)


def _yaml(text: str) -> dict[str, Any]:
    try:
        found = yaml.load(text, Loader=Yaml12)
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
