"""In-toto statements of a chain: SLSA provenance for every stage; of every stage with gates a test result, and their
numbers as evaluation results.

One DSSE envelope a line (an in-toto bundle). Artifacts that are folders are named by the content hash by which chains
name them, under ``reelgraphContent``; files by ``sha256``. Where nothing is recorded of a run, its times, commit and
machine are absent.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from pipelines.credentials import without_credentials
from pipelines.standards import signing

FILE = "provenance.intoto.jsonl"
SLSA = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
EVAL_RESULT = "https://in-toto.io/attestation/eval-result/v0.1"
"""Proposed to in-toto (attestation#575, as revised in September 2026), not yet registered."""
BUILD_TYPE = "urn:reelgraph:stage:v1"
BUILDER = "urn:reelgraph:machine-of-the-user"
"""Nobody but the user vouches for the run: SLSA's build level 1."""
CONTENT = "reelgraphContent"
CODE = "reelgraphCode"
HUB_CACHE = re.compile(r"/models--([\w.-]+?)--([\w.-]+)/snapshots/[0-9a-f]+/?$")
"""Where the hub's own library keeps a published model on a machine."""
COMPARATORS = (">=", ">", "<=", "<")
VERDICTS = {"pass": "passedTests", "warn": "warnedTests", "fail": "failedTests"}


def clean(value: Any) -> Any:
    """The same value without credentials in its texts, keys included, and of places of a machine the name alone: of a
    published model in the hub's cache the name by which it is published."""
    if isinstance(value, Mapping):
        return {without_credentials(str(key)): clean(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [clean(part) for part in value]
    if not isinstance(value, str):
        return value
    if not Path(value).is_absolute():
        return without_credentials(value)
    published = HUB_CACHE.search(value)
    return "/".join(published.groups()) if published else Path(value).name


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
            tested = [_tested(node), *_evaluated(digest, nodes, runs.get(digest) or {})]
            yield from (clean({"_type": signing.STATEMENT, "subject": subject[:1], **one}) for one in tested)


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
    gates = dict(_named(node))
    lists = {
        kind: [name for name, gate in gates.items() if gate.get("verdict") == verdict]
        for verdict, kind in VERDICTS.items()
    }
    result = "FAILED" if lists["failedTests"] else "WARNED" if lists["warnedTests"] else "PASSED"
    named = {"name": f"gates of {_name(node)}", "digest": {CODE: node.get("code") or ""}}
    shown = ("value", "comparison", "threshold", "samples")
    thresholds = {name: {key: gate[key] for key in shown if key in gate} for name, gate in gates.items()}
    configuration = [{**named, "annotations": thresholds}]
    return {"predicateType": TEST_RESULT, "predicate": {"result": result, "configuration": configuration, **lists}}


def _named(node: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Gates by a name of their own: where a number stands beside several thresholds, by them too."""
    gates = [gate for gate in node["gates"] if gate.get("name")]
    names = Counter(str(gate["name"]) for gate in gates)
    for gate in gates:
        name = str(gate["name"])
        yield name if names[name] == 1 else f"{name} {gate.get('comparison')} {gate.get('threshold')}", gate


def _evaluated(digest: str, nodes: Mapping[str, Mapping[str, Any]], run: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One evaluation result for all gates that are over equally many samples.

    The predicate wants a time, a number of samples and the data by content: a gate without a number is no claim of it,
    and of a run that is not recorded, or that read no data set, there is none.
    """
    node = nodes[digest]
    time, data = _time(run.get("ended_at")), next(_data(node, nodes), None)
    if time is None or data is None:
        return
    claims: dict[int, list[dict[str, Any]]] = {}
    for gate in node["gates"]:
        if _is_claim(gate):
            claims.setdefault(gate["samples"], []).append(_claim(gate))
    for samples, claimed in claims.items():
        predicate = {
            "evaluator": {"id": BUILDER},
            "evaluatedAt": time,
            "suite": {"name": f"gates of {node.get('stage')}", "version": node.get("code") or "unknown"},
            "claims": claimed,
            "sampleSize": samples,
            "model": {"name": _name(node), "digest": {CONTENT: digest}},
            "dataset": data,
            "assuranceLevel": "self_attested",
            "subjectProfile": "public-model",
        }
        yield {"predicateType": EVAL_RESULT, "predicate": predicate}


def _is_claim(gate: Mapping[str, Any]) -> bool:
    numbers = all(isinstance(gate.get(key), int | float) for key in ("value", "threshold"))
    samples = gate.get("samples")
    return numbers and isinstance(samples, int) and samples > 0 and gate.get("comparison") in COMPARATORS


def _claim(gate: Mapping[str, Any]) -> dict[str, Any]:
    """A verdict on a number; ``passed`` is what the comparison gives, so a warning has not passed."""
    told = {"metric": str(gate["name"]), "comparator": gate["comparison"], "threshold": _decimal(gate["threshold"])}
    return {**told, "passed": gate.get("verdict") == "pass", "value": _decimal(gate["value"])}


def _decimal(value: float) -> str:
    """A number as text without an exponent, to its last digit."""
    return format(Decimal(repr(value)), "f")


def _data(node: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Data sets that a stage read, by content."""
    for one in _read(node):
        made = nodes.get(one["digest"][CONTENT]) or {}
        if (made.get("facts") or {}).get("splits"):
            yield {"name": one["name"], "digest": one["digest"]}


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
