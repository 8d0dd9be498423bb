"""``reel lineage PATH``: where a checkpoint, data set, clip or exported pipeline came from, back to the raw clips.

Reads what the artifact carries (:mod:`pipelines.chain`), wherever it was copied to: without server, git, DVC or torch.
Commit, machine, times and resumes stand beside it (:mod:`pipelines.run_facts`) or in the project's records of the
runs; where neither is at hand they are unknown.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import run_facts
from pipelines.chain import NoChain, artifact_folder, carried
from pipelines.progress import duration
from pipelines.run_facts import Records
from pipelines.stage import RUNS, StageError
from pipelines.told import plain

SHIPPED = Path(__file__).with_name("shipped.json")
"""The values of params.yaml as they are shipped; written by ``python -m pipelines.provenance --ship``."""
FORMATS = ("croissant", "in-toto", "openlineage")
"""Standards in which a lineage is told (:mod:`pipelines.standards.told`)."""
SHORT = 12
UNKNOWN = "unknown"
ABSENT = object()


@dataclass(frozen=True)
class Lineage:
    """An artifact's chain; ``now`` is the content hash of what lies there, None where it was not told at the making."""

    path: Path
    artifact: str
    nodes: Mapping[str, Mapping[str, Any]]
    now: str | None
    runs: Mapping[str, Mapping[str, Any]]

    @property
    def state(self) -> str:
        """Whether it is what was made."""
        if self.now is None:
            return "not checked: it carries no hash of itself as it was made"
        return "as it was made" if self.now == self.artifact else f"CHANGED since it was made: {self.now[:SHORT]} now"


def lineage(path: Path, records: Records | None = None) -> Lineage:
    """What a path tells; ``records`` of runs are read here where none are given.

    Raises:
        NoChain: nothing.
    """
    content, now = carried(path)
    runs = run_facts.checked(content.get("runs")) if path.is_file() else {}
    folder = artifact_folder(path)
    runs |= run_facts.read(folder) if folder is not None else {}
    runs |= run_facts.by_records(content["nodes"], run_facts.records_around(path) if records is None else records)
    return Lineage(path, content["artifact"], content["nodes"], now, runs)


# ---- values -------------------------------------------------------------------------------------------------------


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name; lists are values."""
    if not isinstance(values, Mapping) or not values:
        return {prefix: values}
    return {
        name: value
        for key, part in values.items()
        for name, value in flat(part, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Names whose values differ, :data:`ABSENT` where one side has none; null and a name that is not there are one."""
    one, other = flat(before), flat(after)
    for name in dict.fromkeys([*one, *other]):
        was, now = one.get(name, ABSENT), other.get(name, ABSENT)
        if was != now and name and not {id(was), id(now)} <= {id(None), id(ABSENT)}:
            yield name, was, now


def printable(line: str) -> str:
    """A line without control characters: what an artifact carries may be of anybody."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def text_of(value: Any) -> str:
    """A value in a line of its own, control characters written out."""
    if value is ABSENT:
        return "–"
    shown = printable(json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value)
    return shown if len(shown) <= 120 else f"{shown[:117]}…"


def number_of(value: Any) -> str:
    """A number at four digits; in words where there is none."""
    return f"{value:.4g}" if isinstance(value, int | float) else "not available"


def set_values(node: Mapping[str, Any], every: bool) -> list[str]:
    """The parameters that differ from the shipped ones, or all of them."""
    params = node.get("params") or {}
    if every:
        return [f"{name} = {text_of(value)}" for name, value in flat(params).items() if name]
    shipped = json.loads(SHIPPED.read_text(encoding="utf-8")).get(node.get("stage"))
    if shipped is None:
        return [f"{name} = {text_of(value)}" for name, value in flat(params).items() if name]
    return [
        f"{name} {text_of(now)}" + (f" (shipped: {text_of(was)})" if was is not ABSENT else " (not shipped)")
        for name, was, now in differing(shipped, params)
        if now is not ABSENT
    ]


# ---- shown --------------------------------------------------------------------------------------------------------


def text(found: Lineage, every: bool = False) -> str:
    """The chain as an indented text; an artifact that went in twice is told once."""
    lines = [f"{found.path}: {found.state}"]
    seen: set[str] = set()

    def tell(name: str, path: str, digest: str, depth: int) -> None:
        indent = "  " * depth
        node = found.nodes.get(digest)
        title = f"{indent}{name}{': ' if name else ''}{text_of(path)}  {digest[:SHORT]}"
        if node is None:
            lines.append(f"{title}  (a source, or its making is {UNKNOWN})")
            return
        if digest in seen:
            lines.append(f"{title}  by {text_of(node.get('stage'))} (above)")
            return
        seen.add(digest)
        lines.append(f"{title}  by {text_of(node.get('stage'))}")
        lines.extend(f"{indent}  {line}" for line in _about(found, digest, node, every))
        for key, one in node["inputs"].items():
            if one.get("holds"):
                lines.append(f"{indent}  {key}: {text_of(one['path'])}  {one['digest'][:SHORT]}  holds")
                for inner, held in one["holds"].items():
                    tell(inner, f"{one['path']}/{inner}", held, depth + 2)
            else:
                tell(key, one["path"], one["digest"], depth + 1)

    tell("", str(found.nodes[found.artifact].get("path") or found.path.name), found.artifact, 0)
    lines.extend(_why_unknown(found))
    return "\n".join(map(printable, lines))


def _why_unknown(found: Lineage) -> Iterator[str]:
    """Why runs are unknown, and where they can be asked for; nothing where all are known."""
    missing = sum(digest not in found.runs for digest in found.nodes)
    if not missing:
        return
    folder = artifact_folder(found.path)
    damaged = run_facts.damage(folder) if folder is not None else None
    if damaged is not None:
        why = f"{RUNS} beside it is {damaged}"
    elif folder is None and not found.runs:
        why = "a clip that a stage made holds none of them, so that equal runs leave equal bytes"
    elif not found.runs:
        why = f"there is no {RUNS} beside it: DVC restores none, and who copies may leave it out"
    else:
        why = "these were made, or handed over, without a record"
    yield (
        f"Of {missing} of {len(found.nodes)} the run (commit, machine, times) is unknown here: {why}. The project that "
        "made it has them, if any, in .work: ask in its folder, reel lineage PATH."
    )


def _about(found: Lineage, digest: str, node: Mapping[str, Any], every: bool) -> Iterator[str]:
    versions = ", ".join(f"{name} {value}" for name, value in (node.get("environment") or {}).items())
    yield f"code {(node.get('code') or UNKNOWN)[:SHORT]}; {versions or f'versions {UNKNOWN}'}"
    if node.get("asked"):
        yield "asked: " + ", ".join(f"{name} {text_of(value)}" for name, value in node["asked"].items())
    facts = node.get("facts") or {}
    if facts.get("samples") is not None:
        splits = ", ".join(f"{name} {count}" for name, count in (facts.get("splits") or {}).items())
        sources = f"{facts.get('sources')} {'source' if facts.get('sources') == 1 else 'sources'}"
        hashed = f"; content {facts['content'][:SHORT]} of {sources}" if facts.get("content") else ""
        yield f"{facts['samples']} samples ({splits}){hashed}"
    seeds = node.get("seed")
    if seeds:
        told = seeds if isinstance(seeds, Mapping) else {"seed": seeds}
        yield ", ".join(f"{name} {text_of(value)}" for name, value in told.items())
    if node.get("step") is not None:
        yield f"{node['step']} steps" + "".join(_segments(node))
    values = set_values(node, every)
    yield "set: " + ("nothing but shipped values" if not values else "") + "; ".join(values if not every else [])
    if every:
        yield from (f"  {value}" for value in values)
    for gate in node.get("gates") or []:
        value, threshold = (number_of(gate.get(name)) for name in ("value", "threshold"))
        yield f"gate {gate['name']} {value} {gate.get('comparison')} {threshold}: {gate.get('verdict')}"
    yield from _run_lines(found.runs.get(digest))


def _segments(node: Mapping[str, Any]) -> Iterator[str]:
    parts = node.get("segments") or []
    if len(parts) > 1:
        yield ", in segments: " + "; ".join(
            f"from {part['from']} of {part['steps']} by code {(part['code'] or UNKNOWN)[:SHORT]}" for part in parts
        )


def _run_lines(run: Mapping[str, Any] | None) -> Iterator[str]:
    if run is None:
        yield f"run: {UNKNOWN} here"
        return
    commit = f"commit {run['commit'][:SHORT]}" if run.get("commit") else f"commit {UNKNOWN}"
    dirty = " with local changes" if run.get("dirty") else ""
    took = duration(float(run["seconds"])) if run.get("seconds") is not None else f"time {UNKNOWN}"
    machine = ", ".join(f"{name} {value}" for name, value in (run.get("hardware") or {}).items()) or UNKNOWN
    began = run.get("began_at") or f"begin {UNKNOWN}"
    yield f"run: {commit}{dirty}; {began}, {took}, resumed {len(run['resumed_at'])} times; {machine}"
    made = run.get("decision")
    if made:
        yield f"decision: {made.get('verdict')}, {text_of(made.get('because'))} (by {made.get('by')})"
    for one in run["accepted"]:
        to, before = (str(one.get(name))[:SHORT] for name in ("to", "from"))
        yield f"accepted: code {to} for {before}, {text_of(one.get('because'))}"


def as_json(found: Lineage) -> dict[str, Any]:
    """Everything, for programs: nodes with their runs (null where unknown)."""
    nodes = {digest: {**node, "run": found.runs.get(digest)} for digest, node in found.nodes.items()}
    return {"path": str(found.path), "artifact": found.artifact, "now": found.now, "nodes": nodes}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 3 where the path tells nothing."""
    parser = argparse.ArgumentParser(prog="reel lineage", description=plain(__doc__))
    parser.add_argument("path", type=Path, help="a checkpoint, data set, clip or exported pipeline, or a file in one")
    parser.add_argument("--all", action="store_true", help="all parameters, not only what differs from the shipped")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw it into a file")
    parser.add_argument("--format", choices=FORMATS, help="in the words of a standard; openlineage: of a project")
    given = parser.parse_args(argv)
    try:
        if given.format is not None:
            from pipelines.standards.told import told

            return print("\n".join(told(given.path, given.format))) or 0
        found = lineage(given.path)
        if given.svg is not None:
            from pipelines.provenance_picture import svg

            given.svg.write_text(svg(found), encoding="utf-8")
    except BrokenPipeError:
        raise  # the reader went away, which is no fault of the input
    except (NoChain, StageError, OSError) as error:
        print(f"lineage: {error}", file=sys.stderr)
        return 3
    if given.svg is not None:
        print(given.svg)
    elif given.json:
        print(json.dumps(as_json(found), indent=2, sort_keys=True))
    else:
        print(text(found, given.all))
    return 0 if found.now in (None, found.artifact) else 1


def answered(command: Callable[[], int]) -> int:
    """The exit code of a command whose reader may go away, as ``head`` does."""
    try:
        code = command()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        return 0


def ship() -> None:
    """Keep the values of params.yaml, as they are now, as the shipped ones."""
    from pipelines.document import read_document

    values = read_document()[0]
    SHIPPED.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--ship"]:
        ship()
        sys.exit(0)
    sys.exit(answered(main))
