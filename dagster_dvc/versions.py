"""The code version of a stage: from disk, and as dvc.lock remembers it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from dagster_dvc.generated import params_now
from dagster_dvc.lock import Entry
from dagster_dvc.project import DvcProject, Stage
from dagster_dvc.values import canonical


def code_version(project: DvcProject, stage: Stage) -> str:
    """Hash of what defines the stage apart from its data, as it is on disk: command, outputs, params, code."""
    code = {dep: project.hashes.of(dep) for dep in project.identity_deps(stage)}
    return _version(stage.cmd, [out.path for out in stage.outs], params_now(project, stage), code, "on disk")


def lock_code_version(project: DvcProject, stage: Stage, locked: Entry) -> str:
    """The same for the recorded run. Equal to `code_version` exactly when DVC finds all but the data unchanged."""
    code = {path: dep.hash for path, dep in locked.deps.items() if project.is_identity(path)}
    return _version(locked.cmd, list(locked.outs), locked.params, code, "recorded")


def _version(
    cmd: object, outs: list[str], params: Mapping[str, Mapping[str, Any]], code: Mapping[str, str | None], side: str
) -> str:
    held = {file: {key: canonical(value, side) for key, value in values.items()} for file, values in params.items()}
    blob = json.dumps(
        [cmd, sorted(outs), {file: values for file, values in held.items() if values}, code], sort_keys=True
    )
    return hashlib.sha256(blob.encode()).hexdigest()[:32]
