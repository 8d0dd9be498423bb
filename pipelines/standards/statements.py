"""In-toto statements of a chain: SLSA provenance for every stage, and a test result for every stage with gates.

One DSSE envelope a line (an in-toto bundle). Artifacts that are folders are named by the content hash by which chains
name them, under ``reelgraphContent``; files by ``sha256``. Where nothing is recorded of a run, its times, commit and
machine are absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.credentials import without_credentials
from pipelines.standards import signing

FILE = "provenance.intoto.jsonl"
SLSA = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
BUILD_TYPE = "urn:reelgraph:stage:v1"
BUILDER = "urn:reelgraph:machine-of-the-user"
"""Nobody but the user vouches for the run: SLSA's build level 1."""
CONTENT = "reelgraphContent"
CODE = "reelgraphCode"
VERDICTS = {"pass": "passedTests", "warn": "warnedTests", "fail": "failedTests"}


def clean(value: Any) -> Any:
    """The same value without credentials in its texts, keys included, and of places of a machine the name alone."""
    if isinstance(value, Mapping):
        return {without_credentials(str(key)): clean(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [clean(part) for part in value]
    if not isinstance(value, str):
        return value
    return Path(value).name if Path(value).is_absolute() else without_credentials(value)


def statements(
    nodes: Mapping[str, Mapping[str, Any]],
    runs: Mapping[str, Mapping[str, Any]],
    artifact: str,
    files: Mapping[str, str],
) -> Iterator[dict[str, Any]]:
    """All statements of a chain; the artifact's own subjects are its ``files`` too, by SHA-256."""
    for digest, node in nodes.items():
        own = [{"name": name, "digest": {"sha256": held}} for name, held in files.items()] if digest == artifact else []
        subject = [{"name": _name(node), "digest": {CONTENT: digest}}, *own]
        yield clean({"_type": signing.STATEMENT, "subject": subject, **_provenance(node, runs.get(digest) or {})})
        if node.get("gates"):
            yield clean({"_type": signing.STATEMENT, "subject": subject[:1], **_tested(node)})


def _name(node: Mapping[str, Any]) -> str:
    return str(node.get("path") or node.get("stage"))


def _provenance(node: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    told = ("stage", "command", "params", "seed")
    inside = {"environment": node.get("environment"), "steps": node.get("step"), "segments": node.get("segments")}
    inside["hardware"] = run.get("hardware")
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {name: node[name] for name in told if node.get(name) is not None},
        "internalParameters": {name: value for name, value in inside.items() if value is not None},
        "resolvedDependencies": [*_read(node), *_code(node, run)],
    }
    times = {"startedOn": _time(run.get("began_at")), "finishedOn": _time(run.get("ended_at"))}
    details = {"builder": {"id": BUILDER}, "metadata": {name: time for name, time in times.items() if time}}
    return {"predicateType": SLSA, "predicate": {"buildDefinition": definition, "runDetails": details}}


def _read(node: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, one in node["inputs"].items():
        for part, digest in (one.get("holds") or {"": one["digest"]}).items():
            path = "/".join(filter(None, [str(one.get("path") or name), part]))
            yield {"name": path, "digest": {CONTENT: digest}, "annotations": {"as": name}}


def _code(node: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if node.get("code"):
        yield {"name": "code of the stage", "digest": {CODE: node["code"]}}
    if run.get("commit"):
        dirty = {"dirty": bool(run.get("dirty"))}
        yield {"name": "repository", "digest": {"gitCommit": run["commit"]}, "annotations": dirty}


def _time(text: Any) -> str | None:
    """RFC 3339 in UTC, as in-toto writes times."""
    if not text:
        return None
    return datetime.fromisoformat(str(text)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _tested(node: Mapping[str, Any]) -> dict[str, Any]:
    gates = [gate for gate in node["gates"] if gate.get("name")]
    lists = {kind: [str(gate["name"]) for gate in gates if gate.get("verdict") == verdict] for verdict, kind in
             VERDICTS.items()}  # fmt: skip
    result = "FAILED" if lists["failedTests"] else "WARNED" if lists["warnedTests"] else "PASSED"
    named = {"name": f"gates of {_name(node)}", "digest": {CODE: node.get("code") or ""}}
    thresholds = {str(gate["name"]): {key: gate.get(key) for key in ("value", "comparison", "threshold")} for gate in
                  gates}  # fmt: skip
    configuration = [{**named, "annotations": thresholds}]
    return {"predicateType": TEST_RESULT, "predicate": {"result": result, "configuration": configuration, **lists}}


# ---- written and read ---------------------------------------------------------------------------------------------


def write(path: Path, content: Iterator[dict[str, Any]], key: signing.Private) -> None:
    """Sign each statement and write them, a line each."""
    lines = [json.dumps(signing.envelope(statement, key), sort_keys=True) for statement in content]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(path: Path, key: signing.Public) -> list[dict[str, Any]]:
    """The statements of a file.

    Raises:
        BadSignature: one of them was not signed by the key, or is damaged; says which.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            found.append(signing.opened(json.loads(line), key))
        except ValueError as error:
            raise signing.BadSignature(f"line {number}: {error}") from None
    return found
