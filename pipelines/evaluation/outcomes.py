"""What a project has made so far, read from ``dvc.yaml`` and what its stages wrote. A missing piece is no error."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from pipelines.chain import NoChain
from pipelines.document import load
from pipelines.provenance import Lineage, lineage
from pipelines.run_facts import Records
from pipelines.stage import CHAIN, StageError

NOT_MEASURES = {"gates", "unavailable"}
PICTURES = {".png", ".gif"}


@dataclass(frozen=True)
class Outcome:
    """One stage of the graph and what it left. ``metrics`` is None when the stage has not run."""

    name: str
    description: str
    group: str
    kinds: tuple[str, ...]
    command: str
    reads: tuple[str, ...]
    outs: tuple[str, ...]
    metrics: dict[str, float | str | bool] | None = None
    gates: list[dict[str, Any]] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    pictures: tuple[Path, ...] = ()
    clips: tuple[Path, ...] = ()
    training: list[dict[str, float]] = field(default_factory=list)
    record: Mapping[str, Any] = field(default_factory=dict)
    lineage: Lineage | None = None
    headline: tuple[str, ...] = ()
    is_optional: bool = False

    @property
    def has_run(self) -> bool:
        """Whether the stage left its metrics."""
        return self.metrics is not None

    @property
    def seconds(self) -> float | None:
        """Wall seconds of the work, where the stage wrote them."""
        value = (self.metrics or {}).get("seconds", self.record.get("seconds"))
        return float(value) if isinstance(value, (int, float)) else None

    @property
    def verdict(self) -> str | None:
        """The worst verdict of the stage's gates."""
        verdicts = {str(gate.get("verdict")) for gate in self.gates}
        return next((word for word in ("fail", "warn", "pass") if word in verdicts), None)


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, float | str | bool]:
    """Nested metrics under slash-joined names; lists and nulls are left out."""
    found: dict[str, float | str | bool] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, (bool, int, float, str)):
            found[f"{prefix}{name}"] = value
    return found


def _read_json(path: Path) -> dict[str, Any] | None:
    """The file's content; None when there is no such file.

    Raises:
        StageError: the file is there but holds no JSON object.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StageError(f"{path}: not JSON ({error}); run its stage again with `dvc repro --force`.") from None
    if not isinstance(content, dict):
        raise StageError(f"{path}: expected an object, found {type(content).__name__}.")
    return content


def read_training(path: Path) -> list[dict[str, float]]:
    """Rows of ``training.csv`` as numbers; empty cells are left out, and so is what is no number."""
    if not path.is_file():
        return []
    rows = []
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            numbers = {}
            for name, cell in row.items():
                try:
                    numbers[str(name)] = float(cell)
                except (TypeError, ValueError):
                    continue
            if "step" in numbers:
                rows.append(numbers)
    return rows


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (YAMLError, ValueError) as error:
        raise StageError(f"{path}: not readable as YAML: {getattr(error, 'problem', error)}.") from None
    return content if isinstance(content, dict) else {}


def _names(entries: Any) -> tuple[str, ...]:
    """Paths of ``deps``/``outs``, whose entries are words or one-key mappings with options."""
    return tuple(str(next(iter(entry)) if isinstance(entry, dict) else entry) for entry in entries or ())


def _producers(stages: Mapping[str, Any]) -> dict[str, str]:
    kinds = ("outs", "metrics", "plots")
    return {path: name for name, entry in stages.items() for kind in kinds for path in _names(entry.get(kind))}


def _upstream(entry: Mapping[str, Any], producers: Mapping[str, str]) -> tuple[str, ...]:
    """Stages whose outputs are this entry's inputs: the same path, or one inside the other."""
    found = []
    for dependency in map(Path, _names(entry.get("deps"))):
        for out, producer in producers.items():
            if dependency == Path(out) or dependency.is_relative_to(out) or Path(out).is_relative_to(dependency):
                found.append(producer)
    return tuple(dict.fromkeys(found))


def _params(root: Path, entry: Mapping[str, Any], record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values that made the stage's output: the checkpoint's own record, else the sections in params.yaml."""
    if isinstance(record.get("params"), Mapping):
        return record["params"]
    values = _yaml(root / "params.yaml")
    sections = {name: values.get(name) for name in entry.get("params") or () if isinstance(name, str)}
    only = next(iter(sections.values()), None) if len(sections) == 1 else None
    return only if isinstance(only, Mapping) else {k: v for k, v in sections.items() if v is not None}


def read_project(graph: Path, metrics_folder: Path, plots_folder: Path, runs: Records = ()) -> dict[str, Outcome]:
    """Every stage of the graph in its order there; ``runs`` are the records by which their runs are known.

    Raises:
        StageError: the graph has no stages, or a file that is there cannot be read.
    """
    entries = _yaml(graph).get("stages") or {}
    if not entries:
        raise StageError(f"{graph}: no stages; the report needs the project's dvc.yaml.")
    producers, stages = _producers(entries), {}
    tracked = {
        file
        for entry in entries.values()
        for word in entry.get("params") or ()
        if isinstance(word, dict)
        for file in word
    }
    for name, entry in entries.items():
        if set(_names(entry.get("outs"))) & tracked:
            continue  # it only says of the others what they are made of
        content = _read_json(metrics_folder / f"{name}.json")
        outs = _names(entry.get("outs"))
        records = [_read_json(graph.parent / out / "checkpoint.json") for out in outs]
        record: Mapping[str, Any] = next((found for found in records if found), {})
        facts = ((entry.get("meta") or {}).get("dagster")) or {}
        measures = {k: v for k, v in (content or {}).items() if k not in NOT_MEASURES}
        stages[name] = Outcome(
            name=name,
            description=str(entry.get("desc", "")),
            group=str(facts.get("group", "default")),
            kinds=tuple(map(str, facts.get("kinds", ()))),
            command=str(entry.get("cmd", "")),
            reads=_upstream(entry, producers),
            outs=outs,
            metrics=flat(measures) if content is not None else None,
            gates=[gate for gate in (content or {}).get("gates", []) if isinstance(gate, dict)],
            unavailable={k: str(v) for k, v in ((content or {}).get("unavailable") or {}).items()},
            params=_params(graph.parent, entry, record),
            pictures=tuple(sorted(path for path in (plots_folder / name).glob("*") if path.suffix in PICTURES)),
            clips=tuple(sorted(path for out in outs for path in (graph.parent / out).glob("validation/step-*.mp4"))),
            training=read_training(plots_folder / name / "training.csv"),
            record=record,
            lineage=_lineage([graph.parent / out for out in outs], runs),
            headline=tuple(map(str, facts.get("headline") or ())),
            is_optional=bool(facts.get("optional")),
        )
    return stages


def _lineage(outs: Sequence[Path], runs: Records) -> Lineage | None:
    """What the first output that carries a chain tells; None where none does, or it is damaged."""
    for out in outs:
        if (out / CHAIN).is_file():
            try:
                return lineage(out, runs)
            except NoChain:
                continue
    return None
