"""Which stages are stale, and why: the lock file against the disk, as `dvc status` does, but never blocked by a run.

`dvc status` refuses to answer while a stage runs; this reads files only. Staleness is DVC's: not transitive. What
would run in a complete `dvc repro` is `plan`. Left out are data that ``dvc add`` put under DVC, no stages, and
a frozen stage that is `always_changed`: `dvc status` names it and `dvc repro` leaves it.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dagster_dvc import graph
from dagster_dvc.generated import generated, params_now, why_changed
from dagster_dvc.lock import Entry, Locked, read_lock
from dagster_dvc.missing import in_cache
from dagster_dvc.problem import ProjectError
from dagster_dvc.project import DvcProject, Out, Stage
from dagster_dvc.values import as_json, as_key, equal, is_nan

MISSING = object()


@dataclass(frozen=True)
class Reason:
    """One thing that differs from what the lock file remembers."""

    kind: Literal["never", "always", "command", "params", "code", "data", "output"]
    what: str
    gone: bool = False
    """Whether all that differs is that a recorded path is not there."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}" if self.kind not in {"never", "always"} else self.what


def stale(project: DvcProject) -> dict[str, list[Reason]]:
    """Stages that differ from the lock file, with the reasons; fresh stages are absent."""
    lock = read_lock(project)
    with project.hashes.held():
        found = {name: reasons(project, stage, lock.get(name)) for name, stage in project.stages.items()}
    project.hashes.save()
    return {name: why for name, why in found.items() if why}


def plan(project: DvcProject, goals: Iterable[str]) -> dict[str, list[Reason]]:
    """What `dvc repro` of `goals` and what they need would look at again, in order: stale, or after a stale one."""
    goals = list(goals)
    wanted = graph.closure(goals, project.upstream) - project.set_aside_but(goals)
    why = stale(project)
    result: dict[str, list[Reason]] = {}
    for name in project.stages:
        if name not in wanted:
            continue
        first = [up for up in project.stages if up in project.data_upstream[name] and up in result]
        behind = [] if project.stages[name].frozen else [Reason("data", f"after {up}") for up in first]
        if why.get(name) or behind:
            result[name] = [*why.get(name, []), *behind]
    return result


def reasons(project: DvcProject, stage: Stage, entry: Entry | None) -> list[Reason]:
    """Why this stage is stale, most telling first; empty when it is fresh.

    A frozen stage keeps what it made whatever it was made from, as in DVC: only its command and outputs count.
    """
    if entry is None:
        return [Reason("never", "never run")]
    found = []
    if stage.always_changed and not stage.frozen:
        found.append(Reason("always", "always runs (always_changed)"))
    elif not (stage.deps or stage.params or stage.outs):
        found.append(Reason("always", "always runs (it reads and makes nothing)"))
    if entry.cmd != stage.cmd:
        found.append(Reason("command", "the command changed"))
    if not stage.frozen:
        found += _inputs(project, stage, entry)
    for out in stage.outs:
        found += _output(project, stage, out, entry)
    return found


def changed_outputs(project: DvcProject, stage: Stage) -> list[Reason]:
    """Outputs that are missing, edited or not in the cache: what differs whatever the stage is made from."""
    entry = read_lock(project).get(stage.name)
    if entry is None:
        return [Reason("never", "never run")]
    return [why for out in stage.outs for why in _output(project, stage, out, entry)]


def source_version(project: DvcProject, path: str) -> str:
    """DVC's hash of data that no stage makes; from the ``.dvc`` file where there is one."""
    is_legacy = False
    with contextlib.suppress(ProjectError):  # a lock file that cannot be read records nothing
        recorded = [entry.deps[path] for entry in read_lock(project).values() if path in entry.deps]
        is_legacy = bool(recorded) and all(one.is_legacy for one in recorded)
    return project.tracked_sources.get(path) or project.hashes.of(path, is_legacy=is_legacy) or "missing"


def _inputs(project: DvcProject, stage: Stage, entry: Entry) -> list[Reason]:
    found = _params(project, stage, entry)
    if stage.name in generated(project).problems:
        found.append(Reason("code", generated(project).problems[stage.name]))
    for dep in stage.deps:
        kind = "code" if project.is_code(dep) else "data"
        found += _path(project, stage, dep, entry.deps, kind)
    return found


def _params(project: DvcProject, stage: Stage, entry: Entry) -> list[Reason]:
    found = []
    for file, values in params_now(project, stage).items():
        before, maker = as_json(entry.params.get(file, {})), project.producer(file)
        for key in [as_key(key) for key in stage.param_keys[file]] or sorted({*values, *before}):
            was, now = before.get(key, MISSING), values.get(key, MISSING)
            changed = differences(was, now, key) or _unequal(key, now)
            if maker is None:
                found += [Reason("params", text) for text in changed]
            elif changed:
                is_code = any(map(project.is_code, maker[0].deps))
                found.append(Reason("code" if is_code else "params", why_changed(project, file, key)))
    return found


def _unequal(key: str, now: Any) -> list[str]:
    """Why a value is another one although it is what it was."""
    if now is MISSING:
        return [f"{key} is absent: no run can read it"]
    return [f"{key} is NaN, which equals nothing"] if is_nan(now) else []


def differences(before: Any, now: Any, name: str) -> list[str]:
    """Lines like ``training.steps 300 -> 400`` for everything that differs between two values."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = sorted({*before, *now}, key=str)
        return [
            line
            for key in keys
            for line in differences(before.get(key, MISSING), now.get(key, MISSING), f"{name}.{key}")
        ]
    return [] if equal(before, now) else [f"{name} {_shown(before)} -> {_shown(now)}"]


def _shown(value: Any) -> str:
    if value is MISSING:
        return "(absent)"
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _output(project: DvcProject, stage: Stage, out: Out, entry: Entry) -> list[Reason]:
    found = _path(project, stage, out.path, entry.outs, "output")
    recorded = entry.outs.get(out.path)
    gone = out.cache and not (project.root / out.path).exists()
    is_kept = recorded is not None and in_cache(project, recorded.hash, recorded.is_legacy)
    if not gone and recorded is not None and not found and out.cache and not is_kept:
        return [Reason("output", f"{out.path} is not in DVC's cache; `dvc commit` keeps what is there", gone=True)]
    if gone and recorded is not None and not is_kept:
        remote = project.manifest["remote"]
        back = (
            f"the remote '{remote}' may have it, else a run makes it again" if remote else "only a run makes it again"
        )
        return [Reason("output", f"{out.path} is missing, and from DVC's cache too: {back}", gone=True)]
    return found


def _path(project: DvcProject, stage: Stage, path: str, recorded: Mapping[str, Locked], kind: Any) -> list[Reason]:
    before = recorded.get(path)
    if before is not None and before.written != stage.written[path]:  # DVC looks for it by these letters
        return [Reason(kind, f"{path} was written '{before.written}' in {stage.file}, now '{stage.written[path]}'")]
    if "://" in path:  # only DVC can ask for it, when the stage is run
        return [] if before is not None else [Reason(kind, f"{path} is new")]
    now = project.hashes.of(path, is_legacy=before is not None and before.is_legacy)
    if now is None:
        return [Reason(kind, f"{path} is missing", gone=before is not None)]
    if path in project.hashes.refused:
        return [Reason(kind, project.hashes.refused[path])]
    if before is None:
        return [Reason(kind, f"{path} is new")]
    return [] if now == before.hash else [Reason(kind, f"{path} changed")]
