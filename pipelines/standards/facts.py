"""What a release knows of itself, drawn once from what its artifact carries; card, bill of materials and statements
say it in their own words. What is not known is None, never a guess."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.chain import NoChain, carried
from pipelines.described import read_json

UNKNOWN = "unknown"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
HUB_DATA = re.compile(r"(?:hf://datasets/|huggingface\.co/datasets/)([\w.-]+/[\w.-]+)")
LICENCE = re.compile(r"licen[cs]e", re.IGNORECASE)
SPDX = {
    name.lower(): name
    for name in (
        *("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "GPL-3.0-only", "LGPL-3.0-only", "AGPL-3.0-only"),
        *("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "MPL-2.0"),
        *("ISC", "PSF-2.0", "Unlicense", "CDLA-Permissive-2.0", "ODbL-1.0"),
    )
}
"""Licences by the name that the model hub knows, each as SPDX spells it; any other one goes by its name alone."""


@dataclass(frozen=True)
class Base:
    """A published model that went in: where in the parameters it is named, and what is recorded of it."""

    stage: str
    place: str
    name: str
    revision: str | None
    licence: str | None

    @property
    def is_hub(self) -> bool:
        """Whether it has a name on the model hub; otherwise it was a folder, whose name alone is told."""
        return HUB_NAME.fullmatch(self.name) is not None


@dataclass(frozen=True)
class EvaluatedNumber:
    """A number of the evaluation on the test split, with its 95 % interval and what it is read beside."""

    name: str
    value: float
    low: float | None
    high: float | None
    chance: float | None
    real: float | None


@dataclass(frozen=True)
class Release:
    """All of it.

    Attributes:
        name: of the release.
        artifact: content hash of its weights, as chains name it.
        nodes, runs: its chain, and what records tell of the runs (:func:`pipelines.provenance.lineage`).
        record: of the checkpoint.
        results, num_samples: of the evaluation of this very checkpoint, and over how many clips; empty without one.
        licence: of the weights, as whoever releases them says; None where nothing is said.
        sources: licences of the clips that went in, with their number; None for clips that state none.
        loads_with: "diffusers" or "reelgraph"; task: what it does, as the model hub calls it.
        files: of weights, with SHA-256.
    """

    name: str
    artifact: str
    nodes: Mapping[str, Mapping[str, Any]]
    runs: Mapping[str, Mapping[str, Any]]
    record: Mapping[str, Any]
    results: tuple[EvaluatedNumber, ...] = ()
    num_samples: int | None = None
    licence: str | None = None
    sources: Mapping[str | None, int] = field(default_factory=dict)
    loads_with: str = "reelgraph"
    task: str = "other"
    is_adapter: bool = False
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def backwards(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Its chain, from the release back to the clips; each artifact once."""
        found: dict[str, Mapping[str, Any]] = {}
        waiting = [self.artifact]
        while waiting:
            digest = waiting.pop()
            if digest in self.nodes and digest not in found:
                found[digest] = self.nodes[digest]
                read = [one.get("holds") or {"": one["digest"]} for one in found[digest].get("inputs", {}).values()]
                waiting += reversed([held for holds in read for held in holds.values()])
        return list((found | {digest: self.nodes[digest] for digest in self.nodes if digest not in found}).items())

    @property
    def stage(self) -> str:
        """The stage that trained it."""
        return str(self.record.get("stage", self.name))

    @property
    def bases(self) -> list[Base]:
        """Published models that went in, anywhere in the chain."""
        return list(dict.fromkeys(base for node in self.nodes.values() for base in bases(node)))

    @property
    def own_bases(self) -> list[Base]:
        """Those that these weights started from."""
        return [base for base in self.bases if base.stage == self.stage and base.is_hub]

    @property
    def dirty(self) -> list[str]:
        """Stages that ran from code with local changes, as far as that is recorded."""
        return sorted(str(self.nodes[one].get("stage")) for one, run in self.runs.items() if run.get("dirty"))

    @property
    def libraries(self) -> dict[str, str]:
        """Versions that the weights were made with."""
        return dict(self.record.get("environment") or {})


def bases(node: Mapping[str, Any]) -> Iterator[Base]:
    """Pretrained blocks of a node's parameters: a name with a revision."""

    def walk(value: Any, place: str) -> Iterator[Base]:
        if not isinstance(value, Mapping):
            return
        if isinstance(value.get("name"), str) and "revision" in value:
            name, revision = str(value["name"]), value["revision"]
            hub = HUB_NAME.fullmatch(name) is not None and not Path(name).is_dir()
            licence = cached_licence(name, revision) if hub else None
            yield Base(str(node.get("stage")), place, name if hub else Path(name).name, revision, licence)
        for key, below in value.items():
            yield from walk(below, f"{place}.{key}" if place else str(key))

    yield from walk(node.get("params") or {}, "")


def cached_licence(name: str, revision: str | None) -> str | None:
    """What the card of a published model in this machine's cache says of its licence; no network is asked."""
    from huggingface_hub import metadata_load, try_to_load_from_cache

    found = try_to_load_from_cache(name, "README.md", revision=revision)
    if not isinstance(found, str):
        return None
    try:
        stated = (metadata_load(Path(found)) or {}).get("license")
    except (OSError, ValueError):
        return None
    return str(stated) if stated else None


def hub_datasets(nodes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Data sets of the hub whose addresses stand in the parameters of the clips' source."""
    return sorted({name for node in nodes.values() for name in HUB_DATA.findall(str(node.get("params") or {}))})


def source_licences(clips: Path, wanted: str) -> dict[str | None, int]:
    """Licences that the clips of a catalog state, with their number; empty where this is not the wanted catalog."""
    from pipelines.stage import file_digest

    path = clips / "catalog.parquet"
    if not path.is_file() or file_digest(path) != wanted:
        return {}
    import json

    from pyarrow.parquet import ParquetFile

    file = ParquetFile(path)
    if "metadata" not in file.schema_arrow.names:
        return {None: file.metadata.num_rows}
    found: dict[str | None, int] = {}
    for text in file.read(columns=["metadata"])["metadata"].to_pylist():
        told = json.loads(text) if text else {}
        stated = next((str(value) for key, value in told.items() if LICENCE.search(key) and value), None)
        found[stated] = found.get(stated, 0) + 1
    return found


def evaluated(evaluation: Path, metrics: Path, artifact: str) -> tuple[tuple[EvaluatedNumber, ...], int | None]:
    """The numbers of this very checkpoint, by content hash; none where the evaluation did not judge it."""
    content = read_json(metrics)
    try:
        chain = carried(evaluation)[0]
    except NoChain:
        return (), None
    judged = chain["nodes"][chain["artifact"]]["inputs"].get("checkpoints", {}).get("holds") or {}
    name = next((name for name, held in judged.items() if held == artifact), None)
    if name is None or name not in content.get("systems", {}):
        return (), None
    own = _flat(content["systems"][name])
    chance, real = (_flat(content.get("references", {}).get(one, {})) for one in ("chance", "held_out"))
    plain = [key for key in own if not key.endswith(("_low", "_high", "_spread"))]
    rows = [
        EvaluatedNumber(key, own[key], own.get(f"{key}_low"), own.get(f"{key}_high"), chance.get(key), real.get(key))
        for key in sorted(plain)
    ]
    return tuple(rows), content.get("num_samples")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = float(value)
    return found
