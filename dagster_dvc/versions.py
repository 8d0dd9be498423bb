"""The code version of a stage: from disk, and as dvc.lock remembers it."""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from dagster_dvc.generated import params_now
from dagster_dvc.lock import Entry, read_lock
from dagster_dvc.problem import ProjectError
from dagster_dvc.project import DvcProject, Stage
from dagster_dvc.values import as_json, as_key, canonical

Values = Mapping[str, Any]


def code_version(project: DvcProject, stage: Stage) -> str:
    """Hash of what defines the stage apart from its data, as it is on disk: command, paths, params, code."""
    locked = None
    with contextlib.suppress(ProjectError):  # a lock file that cannot be read records nothing
        locked = read_lock(project).get(stage.name)
    code = {
        dep: project.hashes.of(dep, is_legacy=bool(locked and dep in locked.deps and locked.deps[dep].is_legacy))
        for dep in project.identity_deps(stage)
    }
    paths = [stage.written[path] for path in (*stage.deps, *(out.path for out in stage.outs))]
    now = params_now(project, stage)
    absent = {file: {as_key(key): "absent" for key in keys} for file, keys in stage.param_keys.items()}
    return _version(stage.cmd, paths, {file: absent[file] | _canonical(now[file], "on disk") for file in now}, code)


def lock_code_version(project: DvcProject, stage: Stage, locked: Entry) -> str:
    """The same for the recorded run. Equal to `code_version` exactly when DVC finds all but the data unchanged.

    What the stage has no more (a dependency, an output, a parameter) counts for nothing, as in DVC.
    """
    code = {dep: locked.deps[dep].hash for dep in project.identity_deps(stage) if dep in locked.deps}
    found = [*map(locked.deps.get, stage.deps), *(locked.outs.get(out.path) for out in stage.outs)]
    params = {file: _tracked(as_json(locked.params.get(file, {})), keys) for file, keys in stage.param_keys.items()}
    held = {file: _canonical(values, "recorded") for file, values in params.items()}
    return _version(locked.cmd, [one.written for one in found if one is not None], held, code)


def _tracked(values: Values, keys: Sequence[str]) -> Values:
    """Those of the keys that are tracked; without keys all of the file are."""
    return {key: values[key] for key in map(as_key, keys) if key in values} if keys else values


def _canonical(values: Values, side: str) -> dict[str, Any]:
    return {key: canonical(value, side) for key, value in values.items()}


def _version(cmd: object, paths: Sequence[str], params: Mapping[str, Values], code: Mapping[str, str | None]) -> str:
    held = {file: values for file, values in params.items() if values}
    blob = json.dumps([cmd, sorted(paths), held, code], sort_keys=True)
    return hashlib.sha256(blob.encode()).hexdigest()[:32]
