"""CycloneDX 1.6: the bill of materials of a release, the model with its card, files, and all that it was made from."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.standards.facts import SPDX, Base, Release
from pipelines.standards.statements import clean

FILE = "bom.cdx.json"
MODEL = "model"
MOST = 1024


def bill(release: Release, made_at: str) -> dict[str, Any]:
    """The whole document; ``made_at`` in RFC 3339."""
    datasets, models = dict(_artifacts(release, "data")), dict(_artifacts(release, "machine-learning-model"))
    others = [*_files(release), *datasets.values(), *models.values()]
    others += [_base(base) for base in release.bases] + [_library(*one) for one in release.libraries.items()]
    unique = {one["bom-ref"]: one for one in others}
    return _short(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, release.artifact)}",
            "version": 1,
            "metadata": {
                "timestamp": made_at,
                "lifecycles": [{"phase": "post-build"}],
                "tools": {"components": [{"type": "application", "name": "Reelgraph"}]},
                "component": _model(release, list(datasets)),
            },
            "components": list(unique.values()),
            "dependencies": list(_edges(release)),
        }
    )


def _short(value: Any) -> Any:
    """The same without credentials, and no text longer than CycloneDX lets a version be."""
    if isinstance(value, dict):
        return {key: _short(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_short(part) for part in value]
    told = clean(value)
    return f"{told[: MOST - 1]}…" if isinstance(told, str) and len(told) > MOST else told


def _model(release: Release, datasets: list[str]) -> dict[str, Any]:
    card: dict[str, Any] = {"modelParameters": {"task": release.task, "datasets": [{"ref": ref} for ref in datasets]}}
    if release.results:
        card["quantitativeAnalysis"] = {"performanceMetrics": [_metric(one) for one in release.results]}
    found: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": release.name,
        "version": release.artifact[:12],
        "description": f"Trained by Reelgraph's stage {release.stage}.",
        "modelCard": card,
        "properties": [{"name": "reelgraph:content", "value": release.artifact}],
    }
    if release.licence:
        found["licenses"] = _licences(release.licence)
    if release.own_bases:
        found["pedigree"] = {"ancestors": [_base(base) for base in release.own_bases]}
    return found


def _metric(one: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"type": one.name, "value": repr(one.value), "slice": "test split"}
    if one.low is not None and one.high is not None:
        found["confidenceInterval"] = {"lowerBound": repr(one.low), "upperBound": repr(one.high)}
    return found


def _licences(licence: str) -> list[dict[str, Any]]:
    known = SPDX.get(licence.lower())
    return [{"license": {"id": known} if known else {"name": licence}}]


def _files(release: Release) -> Iterator[dict[str, Any]]:
    for name, digest in release.files.items():
        hashed = [{"alg": "SHA-256", "content": digest}]
        yield {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": hashed}


def _artifacts(release: Release, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Data sets, or models, of the chain: a model is what was trained for steps."""
    for digest, node in release.nodes.items():
        if digest == release.artifact or (node.get("step") is not None) != (kind != "data"):
            continue
        name = str(node.get("path") or node.get("stage"))
        found: dict[str, Any] = {"type": kind, "bom-ref": f"artifact:{digest}", "name": name, "version": digest[:12]}
        if kind == "data":
            facts = node.get("facts") or {}
            told = ", ".join(f"{count} {split}" for split, count in (facts.get("splits") or {}).items())
            found["data"] = [{"type": "dataset", "name": name, **({"description": told} if told else {})}]
        yield f"artifact:{digest}", found


def _base(base: Base) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"base:{base.stage}:{base.place}:{base.name}",
        "name": base.name,
        "description": f"{base.place} of stage {base.stage}",
    }
    if base.revision:
        found["version"] = base.revision
    if base.licence:
        found["licenses"] = _licences(base.licence)
    if base.is_hub:
        page = f"https://huggingface.co/{base.name}"
        found |= {"purl": f"pkg:huggingface/{base.name}" + (f"@{base.revision}" if base.revision else "")}
        found["externalReferences"] = [{"type": "distribution", "url": page}]
    return found


def _library(name: str, version: str) -> dict[str, Any]:
    exact = version.split("+")[0]
    kind = "generic" if name == "python" else "pypi"
    return {
        "type": "library",
        "bom-ref": f"library:{name}",
        "name": name,
        "version": version,
        "purl": f"pkg:{kind}/{name}@{exact}",
    }


def _edges(release: Release) -> Iterator[dict[str, Any]]:
    """What was made from what, in the words of CycloneDX: depends on."""
    refs = {digest: MODEL if digest == release.artifact else f"artifact:{digest}" for digest in release.nodes}
    for digest, node in release.nodes.items():
        yield {"ref": refs[digest], "dependsOn": sorted(set(_read(node, refs)))}


def _read(node: Mapping[str, Any], refs: Mapping[str, str]) -> Iterator[str]:
    for one in node["inputs"].values():
        yield from (refs[held] for held in (one.get("holds") or {"": one["digest"]}).values() if held in refs)
