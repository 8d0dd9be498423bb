"""What DVC will record of a stage: held still while it runs, put back when it fails.

DVC reads parameters and code when a stage *ends* and deletes its outputs when it *starts*; both would cost a user the
truth or their results. Reads ``dvc.yaml``, ``dvc.lock`` and the cache as files; imports no DVC.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipelines.document import PARAMS_FILE, read_document
from pipelines.stage import StageError, file_digest


def _stage_entry(stage: str) -> dict[str, Any]:
    graph = Path("dvc.yaml")
    stages = (yaml.safe_load(graph.read_text(encoding="utf-8")) or {}) if graph.is_file() else {}
    return stages.get("stages", {}).get(stage, {})


def tracked_inputs(stage: str) -> dict[str, Any]:
    """What DVC will record of the stage besides data: values of its parameters, digests of its code files."""
    entry = _stage_entry(stage)
    values = read_document(PARAMS_FILE)[0]
    snapshot: dict[str, Any] = {f"params.yaml: {name}": values.get(name) for name in entry.get("params", [])}
    snapshot["dvc.yaml: cmd"] = entry.get("cmd")
    for dependency in entry.get("deps", []):
        path = Path(dependency)
        sources = sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.suffix == ".py" else []
        snapshot |= {str(source): file_digest(source) for source in sources}
    return snapshot


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def restore_outputs(stage: str) -> list[str]:
    """Put outputs that DVC removed back from its cache, as ``dvc.lock`` records them; returns the paths restored."""
    lock, cache = Path("dvc.lock"), Path(".dvc/cache/files/md5")
    if "DVC_STAGE" not in os.environ or not lock.is_file() or not cache.is_dir():
        return []
    entry = ((yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages") or {}).get(stage, {})
    restored = []
    for out in entry.get("outs", []):
        target, md5 = Path(out["path"]), out.get("md5", "")
        source = cache / md5[:2] / md5[2:]
        if target.exists() or not source.is_file():
            continue
        files = {"": md5}
        if md5.endswith(".dir"):
            files = {item["relpath"]: item["md5"] for item in json.loads(source.read_text(encoding="utf-8"))}
        parts = {target / name if name else target: cache / key[:2] / key[2:] for name, key in files.items()}
        if not all(part.is_file() for part in parts.values()):
            continue
        for destination, part in parts.items():
            destination.parent.mkdir(parents=True, exist_ok=True)
            try:
                destination.hardlink_to(part)
            except OSError:
                shutil.copyfile(part, destination)
        restored.append(out["path"])
    return restored


@contextlib.contextmanager
def unchanged_inputs(stage: str) -> Iterator[None]:
    """Fail the stage if its parameters or code were edited inside the block.

    Raises:
        StageError: naming what changed. The work is kept in ``.work`` for a run with the old values.
    """
    before = tracked_inputs(stage)
    yield
    changed = _changed(before, tracked_inputs(stage))
    if changed:
        raise StageError(
            f"{', '.join(changed)} changed while the stage was running, so its result would be recorded under the "
            "wrong values. Nothing is recorded; run it again (work with the old values is kept in .work)."
        )
