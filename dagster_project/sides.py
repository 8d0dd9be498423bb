"""What `reel compare` compares: project folders, revisions, experiments and checkpoints, each with numbers and seeds.

A side may have several members, ``A1,A2,A3``: trainings that differ in their seeds. Members are paired by seed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dagster_dvc.project import DvcProject, ProjectError
from dagster_dvc.results import headline, numbers, read_metrics
from dagster_project import revision
from dagster_project.variants import SEEDS

EVALUATION = "evaluation"
RECORD, REAL = "checkpoint.json", "held_out"
SHOWN = ("metrics/", "plots/", "data/evaluation")
"""Outputs of a revision that are looked at."""


@dataclass(frozen=True)
class Member:
    """One training: its numbers, the seeds by which it is paired with others, what there is to look at."""

    name: str
    seeds: str
    numbers: Mapping[str, float]
    headline: tuple[str, ...]
    pictures: Mapping[str, Path] = field(default_factory=dict)
    system: str | None = None
    """Its name in the evaluation, of a generator that was evaluated."""
    project: Path | None = None
    captions: Mapping[str, str] = field(default_factory=dict)
    """By name of a picture what it was asked to show."""
    real: Mapping[str, Path] = field(default_factory=dict)
    """By name of a picture the real clip of the same prompt."""


def read_member(name: str, project: DvcProject, scratch: Path, stages: Sequence[str]) -> Member:
    """A side's member by what it is called: a checkpoint, a project's folder, else a revision or experiment.

    Raises:
        ProjectError: it is nothing of that.
    """
    path = project.root / name
    if (path / RECORD).is_file():
        return _checkpoint(name, path)
    if (path / "dvc.yaml").is_file():
        return _folder(name, DvcProject(path), stages)
    if path.exists():
        raise ProjectError(f"{name}: no {RECORD} and no dvc.yaml in it: neither a checkpoint nor a project")
    folder = scratch / str(len(list(scratch.iterdir())))
    folder.mkdir()
    return _folder(name, DvcProject(revision.check_out(name, project.root, folder, lambda out: out.startswith(SHOWN))),
                   stages)  # fmt: skip


# ---- projects -----------------------------------------------------------------------------------------------------


def _folder(name: str, inside: DvcProject, stages: Sequence[str]) -> Member:
    chosen = [inside.stage(stage) for stage in stages] if stages else list(inside.stages.values())
    found: dict[str, float] = {}
    heads: list[str] = []
    pictures: dict[str, Path] = {}
    for stage in chosen:
        metrics = read_metrics(inside, stage)
        found |= {f"{stage.name}:{key}": value for key, value in numbers(metrics).items()}
        heads += [f"{stage.name}:{key}" for key in headline(stage, metrics)] if metrics else []
        for out in stage.outs_of("plots"):
            files = sorted((inside.root / out.path).glob("*"))
            pictures |= {f"{stage.name}/{file.name}": file for file in files if file.suffix in PICTURES}
    if not found:
        raise ProjectError(f"{name}: no metrics of {', '.join(stage.name for stage in chosen)}; run or check them out")
    return Member(name, _seeds_of(inside), found, tuple(heads), pictures)


PICTURES = {".png", ".gif", ".webp", ".jpg"}


def _seeds_of(inside: DvcProject) -> str:
    """The seed of every section of params.yaml that has one, as one text."""
    found: dict[str, Any] = {}
    for stage in inside.stages.values():
        for section, values in stage.params.get("params.yaml", {}).items():
            for seed in SEEDS:
                value: Any = values
                for key in seed.split("."):
                    value = value.get(key) if isinstance(value, Mapping) else None
                if isinstance(value, int) and section not in found:
                    found[section] = value
    return json.dumps(found, sort_keys=True)


# ---- checkpoints --------------------------------------------------------------------------------------------------


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ProjectError(f"{path}: not JSON ({error})") from None
    return content if isinstance(content, dict) else {}


def _checkpoint(name: str, path: Path) -> Member:
    """Its own results, and the scores of the evaluation around it, where they are of this very checkpoint."""
    record = _json(path / RECORD)
    found = {f"training:{key}": value for key, value in numbers(record.get("results") or {}).items()}
    root = next((place for place in path.resolve().parents if (place / "dvc.yaml").is_file()), None)
    system = _evaluated(path, root) if root is not None else None
    heads = list(found)
    pictures: dict[str, Path] = {}
    captions: dict[str, str] = {}
    real: dict[str, Path] = {}
    if root is not None and system is not None:
        scores = (_json(root / f"metrics/{EVALUATION}.json").get("systems") or {}).get(system) or {}
        scored = {f"{EVALUATION}:{key}": value for key, value in numbers(scores).items()}
        found |= scored
        heads = [key for key in scored if not key.endswith(("_low", "_high", "_spread"))] or heads
        folder = root / "data/evaluation/clips"
        pictures, real = _clips(folder, system), _clips(folder, REAL)
        captions = _prompts(root / "data/evaluation/samples.parquet", system)
    elif clips := sorted((path / "validation").glob("step-*.mp4")):
        pictures = {"last validation": clips[-1]}
    if not found:
        raise ProjectError(f"{path / RECORD}: it names no results, and no evaluation of it is at hand")
    seeds = json.dumps(record.get("seed"))
    return Member(name, seeds, found, tuple(heads), pictures, system, root, captions, real)


def _clips(folder: Path, system: str) -> dict[str, Path]:
    """The clips of a system in an evaluation, by the number of their prompt."""
    end = f"-{system}.mp4"
    return {f"clip {clip.name.removesuffix(end)}": clip for clip in sorted(folder.glob(f"*{end}"))}


def _prompts(table: Path, system: str) -> dict[str, str]:
    """By name of a clip what it was asked to show; empty where the evaluation has no such table."""
    import pyarrow as pa  # here: no other command waits for it
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(table, columns=["system", "file", "prompt"]).to_pylist()
    except (OSError, KeyError, pa.ArrowInvalid):
        return {}
    named = {Path(str(row["file"])).stem.removesuffix(f"-{system}"): row for row in rows if row["system"] == system}
    return {f"clip {name}": str(row["prompt"]) for name, row in named.items() if row["file"] is not None}


def _evaluated(path: Path, root: Path) -> str | None:
    """The system's name in the evaluation of the project around a checkpoint, if that judged these weights."""
    told, judged = _json(path / "lineage.json"), _json(root / "data/evaluation/lineage.json")
    node = (judged.get("nodes") or {}).get(judged.get("artifact")) or {}
    for one in (node.get("inputs") or {}).values():
        if (one.get("holds") or {}).get(path.name) == told.get("artifact", ""):
            return path.name
    return None


def pairs_of(member: Member, other: Member) -> dict[str, dict[str, Any]]:
    """What the evaluation found between two systems on equal prompts, for ``other`` against ``member``."""
    if None in (member.system, other.system, member.project) or member.project != other.project:
        return {}
    found = _json(Path(str(member.project)) / "data/evaluation/comparisons.json")
    straight = found.get(f"{other.system} against {member.system}")
    if straight is not None:
        return straight
    turned = found.get(f"{member.system} against {other.system}") or {}
    return {name: _turned(one) for name, one in turned.items()}


TURNED = {"better": "worse", "worse": "better", "higher": "lower", "lower": "higher"}


def _turned(one: Mapping[str, Any]) -> dict[str, Any]:
    """The same comparison seen from the other side."""
    verdict = str(one["verdict"])
    low, high = -one["high"], -one["low"]
    return {"difference": -one["difference"], "low": low, "high": high, "verdict": TURNED.get(verdict, verdict)}


def by_seed(sides: Mapping[str, Sequence[Member]]) -> Iterator[tuple[str, str, int, float]]:
    """(side, number, seed, value), seeds counted through all sides.

    Raises:
        ProjectError: two members of a side have the same seeds.
    """
    order = list(dict.fromkeys(member.seeds for members in sides.values() for member in members))
    for side, members in sides.items():
        seen: dict[str, str] = {}
        for member in members:
            if member.seeds in seen:
                raise ProjectError(f"{seen[member.seeds]} and {member.name} have the same seeds: {member.seeds}")
            seen[member.seeds] = member.name
            # One training each says nothing about seeds, whatever they are; then the sides stand beside one another.
            seed = order.index(member.seeds) if any(len(others) > 1 for others in sides.values()) else 0
            yield from ((side, name, seed, value) for name, value in member.numbers.items())
