"""OpenLineage run events (spec 2-0-2) of a project, from what DVC recorded and from what artifacts carry.

They are made after the fact, from ``dvc.lock``, ``dvc.yaml`` and manifests, so they are the same whether Dagster,
``reel run`` or a plain ``dvc repro`` ran a stage. A run's id is a function of what the lock file says of it: the same
run told twice, or by two people, is one run. Times come from the record of the run; where there is none, both events
stand at the time at which dvc.lock was written, and a tag says so.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from pipelines.chain import NoChain
from pipelines.commands import stage_entries
from pipelines.described import data_facts, read_json
from pipelines.document import load
from pipelines.provenance import flat, lineage
from pipelines.stage import StageError
from pipelines.standards.statements import clean

SPEC = "https://openlineage.io/spec"
EVENT = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
PRODUCER = "urn:reelgraph:lineage"
NAMESPACE = "reelgraph"
LOCK = "dvc.lock"


def events(root: Path, namespace: str = NAMESPACE) -> Iterator[dict[str, Any]]:
    """START and COMPLETE of every stage that dvc.lock records, in its order.

    Raises:
        StageError: there is no dvc.lock, or it cannot be read.
    """
    path = root / LOCK
    if not path.is_file():
        raise StageError(f"{root}: no {LOCK}, so nothing has run here; events are made from a project's folder.")
    try:
        stages = (load(path.read_text(encoding="utf-8")) or {})["stages"]
        entries = stage_entries(root / "dvc.yaml")
        told = [(name, dict(entry), entries.get(name) or {}) for name, entry in stages.items()]
        written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, YAMLError) as error:
        told_of = " ".join(str(error).split())
        raise StageError(f"{path}: cannot be read ({told_of}).") from None
    for name, entry, described in told:
        yield from _events(root, namespace, name, entry, described, written)


def _events(
    root: Path, namespace: str, name: str, entry: Mapping[str, Any], described: Mapping[str, Any], written: datetime
) -> Iterator[dict[str, Any]]:
    known = _run(root, entry)
    run = {"runId": run_id(namespace, name, entry), "facets": _run_facets(entry, known)}
    job_facets = {
        "jobType": _facet("2-0-4", "JobTypeJobFacet", processingType="BATCH", integration="DVC", jobType="STAGE")
    }
    if described.get("desc"):
        text = " ".join(str(described["desc"]).split())
        job_facets["documentation"] = _facet("1-1-0", "DocumentationJobFacet", description=text)
    common = {
        "run": run,
        "job": {"namespace": namespace, "name": name, "facets": job_facets},
        "inputs": [_dataset(root, namespace, dep) for dep in entry.get("deps") or []],
        "outputs": [_output(root, namespace, out) for out in entry.get("outs") or []],
        "producer": PRODUCER,
        "schemaURL": EVENT,
    }
    for kind, key in (("START", "began_at"), ("COMPLETE", "ended_at")):
        time = datetime.fromisoformat(str(known[key])) if known.get(key) else written
        yield clean({"eventType": kind, "eventTime": time.astimezone(UTC).isoformat(timespec="seconds"), **common})


def run_id(namespace: str, name: str, entry: Mapping[str, Any]) -> str:
    """A UUID of what was run on what with which result; the same for whoever asks."""
    text = json.dumps([namespace, name, entry], sort_keys=True, default=str)
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:reelgraph:run:{text}"))


def _run(root: Path, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the record of the run tells, found by what an output of the stage carries."""
    for out in entry.get("outs") or []:
        try:
            found = lineage(root / str(out["path"]))
        except NoChain:
            continue
        if found.now in (None, found.artifact):
            return found.runs.get(found.artifact) or {}
    return {}


def _facet(version: str, kind: str, **values: Any) -> dict[str, Any]:
    url = f"{SPEC}/facets/{version}/{kind}.json#/$defs/{kind}"
    return {"_producer": PRODUCER, "_schemaURL": url, **values}


def _run_facets(entry: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as DVC recorded them; code, commit, and whether it was changed since, as tags."""
    params = {file: values for file, values in (entry.get("params") or {}).items() if file != "code.json"}
    listed = [{"key": key, "value": json.dumps(value, default=str)} for key, value in flat(params).items() if key]
    code = next(iter((entry.get("params") or {}).get("code.json", {}).values()), None)
    tags = {"code": code, "commit": known.get("commit"), "dirty": known.get("dirty")}
    tags["times"] = None if known.get("began_at") else "unknown: those of dvc.lock"
    told = [
        {"key": key, "value": str(value), "source": "reelgraph"} for key, value in tags.items() if value is not None
    ]
    facets = (
        {"executionParameters": _facet("1-0-0", "ExecutionParametersRunFacet", parameters=listed)} if listed else {}
    )
    return facets | ({"tags": _facet("1-0-0", "TagsRunFacet", tags=told)} if told else {})


def _dataset(root: Path, namespace: str, one: Mapping[str, Any]) -> dict[str, Any]:
    version = str(one.get("md5") or one.get("etag") or one.get("checksum") or "")
    facets = {"version": _facet("1-0-1", "DatasetVersionDatasetFacet", datasetVersion=version)} if version else {}
    fields = read_json(root / str(one["path"]) / "manifest.json").get("fields") or {}
    if fields:
        listed = [{"name": name, "type": f"{facts['dtype']} {facts['shape']}"} for name, facts in fields.items()]
        facets["schema"] = _facet("1-2-0", "SchemaDatasetFacet", fields=listed)
    return {"namespace": namespace, "name": str(one["path"]), "facets": facets}


def _output(root: Path, namespace: str, one: Mapping[str, Any]) -> dict[str, Any]:
    rows = data_facts(root / str(one["path"])).get("samples")
    counts = {"rowCount": rows, "size": one.get("size"), "fileCount": one.get("nfiles")}
    known = {name: count for name, count in counts.items() if count is not None}
    facets = {"outputStatistics": _facet("1-0-2", "OutputStatisticsOutputDatasetFacet", **known)} if known else {}
    return {**_dataset(root, namespace, one), "outputFacets": facets}
