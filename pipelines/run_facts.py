"""Who ran it when: commit, machine, driver, times, resumes, decision; of an artifact and of all it was made from.

They differ between identical runs, so DVC must not hash them: they stand in ``lineage.runs.json`` beside the chain
(:mod:`pipelines.chain`), which ``.dvcignore`` names, and travel with every copy of the folder. What DVC restores from
its cache has none; then the project's own records (:mod:`pipelines.record`) tell, where they are at hand.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines import origin
from pipelines.stage import CHAIN, RUNS, write_json

VERSION = 1
Runs = dict[str, dict[str, Any]]
"""By content hash, the run that made that artifact."""
Records = Sequence[Mapping[str, Any]]
"""Of finished runs (:mod:`pipelines.record`)."""


def told(record: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a run, out of its record."""
    header, runtime = record["header"], record.get("runtime") or {}
    facts = {name: header.get(name) for name in ("began_at", "ended_at")}
    facts |= {"resumed_at": header.get("resumed_at", []), "seconds": runtime.get("seconds")}
    facts |= {name: (header.get("code") or {}).get(name) for name in ("commit", "dirty", "branch")}
    facts |= {"hardware": runtime.get("hardware"), "decision": record.get("decision")}
    return {**facts, "accepted": record.get("accepted") or []}


def of_this_process() -> dict[str, Any]:
    """The facts of a command that no record is kept of: since when it runs, of which commit, on what."""
    import psutil  # here: only what writes clips needs it

    began = datetime.fromtimestamp(psutil.Process().create_time(), UTC)
    now = datetime.now(UTC)
    times = {"began_at": began.isoformat(timespec="seconds"), "ended_at": now.isoformat(timespec="seconds")}
    found = origin.commit()
    code = {"commit": None, "dirty": None, **found, "branch": origin.branch() if found else None}
    facts = {"resumed_at": [], "seconds": (now - began).total_seconds(), "hardware": origin.hardware()}
    return {**times, **facts, **code, "decision": None, "accepted": []}


def _holders(path: Path) -> list[Path]:
    return [path] if (path / CHAIN).is_file() else sorted(place.parent for place in path.glob(f"*/{CHAIN}"))


def of_inputs(paths: Mapping[str, Path], nodes: Mapping[str, Mapping[str, Any]]) -> Runs:
    """The runs of all that is read, ``nodes``: as it tells itself, else as the project around it has recorded them."""
    found = {own: run for path in paths.values() for holder in _holders(path) for own, run in read(holder).items()}
    left = {own: node for own, node in nodes.items() if own not in found}
    return found | (by_records(left, records_around(*paths.values())) if left else {})


def by_records(nodes: Mapping[str, Mapping[str, Any]], records: Records) -> Runs:
    """The newest recorded run of each node that has one."""
    return {own: found for own, node in nodes.items() if (found := _run_of(node, records))}


def leave(folder: Path, runs: Runs) -> None:
    """Write them beside a chain; where DVC would hash the file, none is written."""
    if runs and _is_ignored(folder):
        write_json(folder / RUNS, {"version": VERSION, "runs": runs, "sha256": _seal(runs)})


def finish(folder: Path, record: Mapping[str, Any]) -> None:
    """Add the run that has just made the artifact in a folder."""
    if (folder / CHAIN).is_file() and record.get("status") == "finished":
        own = json.loads((folder / CHAIN).read_text(encoding="utf-8"))["artifact"]
        leave(folder, read(folder) | {own: told(record)})


def _is_ignored(folder: Path) -> bool:
    """Whether the project around a folder has DVC pass over the file; outside of a project nobody hashes it."""
    for place in folder.absolute().parents:
        if (place / "dvc.yaml").is_file():
            ignored = place / ".dvcignore"
            return ignored.is_file() and RUNS in ignored.read_text(encoding="utf-8").splitlines()
    return True


def _seal(runs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(runs, sort_keys=True, allow_nan=False).encode()).hexdigest()


def read(folder: Path) -> Runs:
    """What a folder tells of runs; nothing where it is damaged, which :func:`damage` names."""
    try:
        content = json.loads((folder / RUNS).read_text(encoding="utf-8"))
        whole = content["version"] == VERSION and content["sha256"] == _seal(content["runs"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return checked(content["runs"]) if whole else {}


def damage(folder: Path) -> str | None:
    """Why the file in a folder tells nothing; None where it is whole, or there is none."""
    if not (folder / RUNS).is_file() or read(folder):
        return None
    return "damaged: it is not what its own SHA-256 says, or of another version"


def checked(runs: Any) -> Runs:
    """Those runs that are of the right form: what an artifact carries may be of anybody."""
    if not isinstance(runs, Mapping):
        return {}
    return {str(own): dict(run) for own, run in runs.items() if isinstance(run, Mapping) and _is_run(run)}


def _is_run(run: Mapping[str, Any]) -> bool:
    texts = all(isinstance(run.get(name), str | None) for name in ("began_at", "ended_at", "commit", "branch"))
    maps = all(isinstance(run.get(name), Mapping | None) for name in ("hardware", "decision"))
    lists = all(isinstance(run.get(name), list) for name in ("resumed_at", "accepted"))
    seconds = isinstance(run.get("seconds"), int | float | None)
    accepted = lists and all(isinstance(one, Mapping) for one in run["accepted"])
    return texts and maps and accepted and seconds


# ---- records of a project ----------------------------------------------------------------------------------------


def records_around(*paths: Path) -> list[dict[str, Any]]:
    """Records of finished runs of the projects around some paths, and of the one around the current folder."""
    starts = [
        *(path.absolute() for path in paths),
        Path.cwd(),
        *map(Path, filter(None, [os.environ.get("REEL_PROJECT")])),
    ]
    roots = [root for start in starts for root in (start, *start.parents) if (root / "dvc.yaml").is_file()]
    return [record for root in dict.fromkeys(roots) for record in records_of(root)]


def records_of(project: Path) -> list[dict[str, Any]]:
    """Records of finished runs of one project."""
    found: list[dict[str, Any]] = []
    for file in sorted((project / ".work").glob("*/*/record.json")):
        with contextlib.suppress(OSError, ValueError):
            record = json.loads(file.read_text(encoding="utf-8"))
            whole = isinstance(record, dict) and isinstance(record.get("header"), dict)
            if whole and record.get("status") == "finished":
                found.append(record)
    return found


def _run_of(node: Mapping[str, Any], records: Records) -> dict[str, Any] | None:
    """The newest run that made what a node tells of: the same stage, code, parameters and inputs."""
    read = {name: one["digest"] for name, one in node["inputs"].items()}
    found = []
    for record in records:
        header, data = record["header"], record.get("data") or {}
        same = header.get("stage") == node.get("stage") and (header.get("code") or {}).get("identity") == node.get(
            "code"
        )
        same = same and record.get("params") == node.get("params")
        if same and all(data[name]["digest"] == digest for name, digest in read.items() if name in data):
            found.append(record)
    newest = max(found, key=lambda record: record["header"].get("ended_at") or "", default=None)
    return told(newest) if newest is not None else None
