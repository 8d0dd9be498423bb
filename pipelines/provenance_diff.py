"""``reel diff X Y``: what differs between two artifacts and between all that went into them.

Parameters, clips, code (by definition, where the project's ``code.json`` and its earlier versions are at hand),
versions and results, stage by stage back to the clips. Needs what the artifacts carry, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.chain import NoChain
from pipelines.code.stages import changed, parts_of
from pipelines.described import read_json
from pipelines.provenance import ABSENT, SHORT, Lineage, answered, differing, lineage, printable, text_of
from pipelines.told import plain

MOST_NAMED = 12
"""Clips and definitions that are named in the text; ``--json`` has all."""


def by_stage(found: Lineage) -> dict[str, Mapping[str, Any]]:
    """The nodes behind an artifact by stage, itself first."""
    order = [found.artifact, *(digest for digest in found.nodes if digest != found.artifact)]
    stages: dict[str, Mapping[str, Any]] = {}
    for digest in order:
        stages.setdefault(str(found.nodes[digest].get("stage")), found.nodes[digest])
    return stages


def compared(one: Lineage, other: Lineage) -> dict[str, Any]:
    """All differences: ``stages`` by name, ``clips`` (added, removed, changed) or None, ``results`` of the two."""
    before, after = by_stage(one), by_stage(other)
    stages = {}
    tops = [str(side.nodes[side.artifact].get("stage")) for side in (one, other)]
    if tops[0] != tops[1]:  # two stages that have something in common, or they would not be compared
        stages[" → ".join(tops)] = _node(one.nodes[one.artifact], other.nodes[other.artifact])
    for name in dict.fromkeys([*before, *after]):
        if name not in before or name not in after:
            stages[name] = {"only": "second" if name in after else "first"}
        elif found := _node(before[name], after[name]):
            stages[name] = found
    return {
        "same": one.artifact == other.artifact,
        "stages": stages,
        "clips": clips(one.path, other.path),
        "results": _pairs(differing(*map(results, (one, other)))),
    }


def results(side: Lineage) -> dict[str, Any]:
    """What came of it: as the checkpoint has it, else the metrics of its stage in the project around it; gates by name.

    Times and machine are no results.
    """
    found = read_json(side.path / "checkpoint.json").get("results")
    if found is None:
        stage = side.nodes[side.artifact].get("stage")
        root = next((place for place in side.path.absolute().parents if (place / "dvc.yaml").is_file()), None)
        found = read_json(root / "metrics" / f"{stage}.json") if root is not None else {}
    gates = [one for name in ("gates", "baselines") for one in found.get(name) or () if isinstance(one, Mapping)]
    told = {name: value for name, value in found.items() if name not in ("gates", "baselines", "seconds", "ran_on")}
    plain = {name: value for name, value in told.items() if not name.startswith("throughput/")}  # the machine's
    return {**plain, **{f"gate {one.get('name')}": one.get("verdict") for one in gates}}


def _pairs(found: Iterator[tuple[str, Any, Any]]) -> dict[str, list[Any]]:
    return {name: [None if value is ABSENT else value for value in pair] for name, *pair in found}


def _node(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "params": _pairs(differing(one.get("params") or {}, other.get("params") or {})),
        "environment": _pairs(differing(one.get("environment") or {}, other.get("environment") or {})),
        "facts": _pairs(differing(one.get("facts") or {}, other.get("facts") or {})),
        "steps": [one.get("step"), other.get("step")] if one.get("step") != other.get("step") else [],
    }
    if one.get("code") != other.get("code"):
        found["code"] = [one.get("code"), other.get("code")]
        found["definitions"] = definitions(str(one.get("stage")), one.get("code"), other.get("code"))
    return {name: value for name, value in found.items() if value or name == "definitions"}


def definitions(stage: str, before: str | None, after: str | None) -> list[str] | None:
    """Names of the definitions that differ between two identities of a stage's code; None where that is not known."""
    from pipelines.code.__main__ import versions

    if not Path("dvc.yaml").is_file():
        return None
    parts: dict[str, Any] = {}
    for held in versions():
        value = held.get(stage)
        if value in (before, after) and value not in parts:
            parts[str(value)] = parts_of(held, stage)
        if len(parts) == 2:
            return changed(parts[str(before)], parts[str(after)])
    return None


def clips(one: Path, other: Path) -> dict[str, list[str]] | None:
    """Clips by key: in the second only, in the first only, in both with other content; None for other artifacts."""
    before, after = _contents(one), _contents(other)
    if before is None or after is None:
        return None
    return {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "changed": sorted(key for key in before.keys() & after.keys() if before[key] != after[key]),
    }


def _contents(folder: Path) -> dict[str, Any] | None:
    """Key to content and caption of what a catalog of clips, or the index of latents, lists."""
    place = next((folder / name for name in ("catalog.parquet", "index.parquet") if (folder / name).is_file()), None)
    if place is None:
        return None
    from pyarrow.parquet import ParquetFile

    file = ParquetFile(place)
    columns = [name for name in file.schema_arrow.names if name in CONTENT or name.startswith("crc32_")]
    table = file.read(columns=["key", *columns])
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    return dict(zip(table["key"].to_pylist(), rows, strict=True))


CONTENT = ("content_hash", "caption", "prompt", "split")
"""Columns that say what a clip or sample is."""


def text(one: Lineage, other: Lineage, found: Mapping[str, Any]) -> str:
    """The differences as text: − the first, + the second."""
    lines = [f"− {one.path}  {one.artifact[:SHORT]}", f"+ {other.path}  {other.artifact[:SHORT]}"]
    if found["same"]:
        lines.append("the same artifact: equal content hash")
    for stage, parts in found["stages"].items():
        if "only" in parts:
            lines.append(f"{text_of(stage)}: only in the chain of the {parts['only']}")
            continue
        lines.append(f"{text_of(stage)}:")
        for kind in ("params", "facts", "environment"):
            lines += [f"  {kind}: {name} {_told(*pair)}" for name, pair in parts.get(kind, {}).items()]
        if parts.get("steps"):
            lines.append(f"  steps: {_told(*parts['steps'])}")
        if "code" in parts:
            names = parts["definitions"]
            shown = "definitions unknown here" if names is None else _listed(names)
            lines.append(f"  code: {_told(*((value or 'unknown')[:SHORT] for value in parts['code']))}; {shown}")
    for kind, keys in (found["clips"] or {}).items():
        lines += [f"clips {kind}: {len(keys)}" + (f" ({_listed(keys)})" if keys else "")]
    lines += [f"result: {name} {_told(*pair)}" for name, pair in found["results"].items()]
    lines += [] if len(lines) > 2 else ["no difference in what they carry"]
    return "\n".join(map(printable, lines))


def _told(before: Any, after: Any) -> str:
    return f"{'–' if before is None else text_of(before)} → {'–' if after is None else text_of(after)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(text_of, names[:MOST_NAMED])) + more


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 without a difference, 1 with one, 3 where a path tells nothing."""
    parser = argparse.ArgumentParser(prog="reel diff", description=plain(__doc__))
    parser.add_argument("first", type=Path, metavar="X", help="a checkpoint, data set, clip or exported pipeline")
    parser.add_argument("second", type=Path, metavar="Y", help="another one, compared with the first")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(argv)
    try:
        one, other = lineage(given.first), lineage(given.second)
    except (NoChain, OSError) as error:
        print(f"diff: {error}", file=sys.stderr)
        return 3
    found = compared(one, other)
    print(json.dumps(found, indent=2, sort_keys=True) if given.json else text(one, other, found))
    return 0 if found["same"] and not found["stages"] else 1


if __name__ == "__main__":
    sys.exit(answered(main))
