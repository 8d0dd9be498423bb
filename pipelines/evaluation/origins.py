"""Where a stage's result came from, as the page tells it: out of the chain it carries, else of its own record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.evaluation.markup import Html, join, tag
from pipelines.evaluation.outcomes import Outcome
from pipelines.evaluation.sections import RAN_ON, folded, number, table
from pipelines.progress import duration
from pipelines.provenance import SHORT, Lineage, set_values, text_of

Row = tuple[object, object]


def origin(stage: Outcome) -> Html | None:
    """Code, commit, machine, inputs, seeds, what is not as shipped and the decision; what is unknown is said to be."""
    if stage.lineage is not None:
        rows = _told(stage.lineage)
        command = tag("p", tag("code", f"reel lineage {stage.lineage.path}"), class_="command")
        return folded("Where it came from", table(("fact", "value"), rows, "plain"), command)
    return folded("Where it came from", table(("fact", "value"), _recorded(stage), "plain")) if stage.record else None


def _told(found: Lineage) -> list[Row]:
    node = found.nodes[found.artifact]
    run = found.runs.get(found.artifact) or {}
    rows: list[Row] = [("content", join([tag("code", found.artifact[:SHORT]), f", {found.state}"]))]
    rows.append(("code", tag("code", str(node.get("code") or "unknown")[:SHORT])))
    commit = str(run.get("commit") or "unknown")[:SHORT]
    rows.append(("commit", join([tag("code", commit), ", with local changes" if run.get("dirty") else ""])))
    if node.get("step") is not None:
        rows.append(("steps", number(node["step"])))
    seeds = node.get("seed")
    named = seeds if isinstance(seeds, Mapping) else {"seed": seeds}
    rows += [(f"seed ({name})" if name != "seed" else name, text_of(value)) for name, value in named.items()]
    rows += [(f"read {name}", _source(one, found)) for name, one in node["inputs"].items()]
    rows.append(("not as shipped", "; ".join(set_values(node, every=False)) or "nothing"))
    rows += _run(run)
    versions = (node.get("environment") or {}).items()
    rows.append(("versions", ", ".join(f"{name} {value}" for name, value in versions) or "unknown"))
    return rows


def _run(run: Mapping[str, Any]) -> list[Row]:
    took = f", {duration(float(run['seconds']))}" if run.get("seconds") is not None else ""
    rows: list[Row] = [("run", f"{run.get('began_at') or 'unknown when'}{took}")]
    if run.get("resumed_at"):
        rows.append(("resumed", f"{len(run['resumed_at'])} times"))
    machine = ", ".join(f"{name} {value}" for name, value in (run.get("hardware") or {}).items())
    rows.append(("machine", machine or "unknown"))
    made = run.get("decision")
    if made:
        rows.append(("decision", f"{made.get('verdict')}: {made.get('because')} (by {made.get('by')})"))
    return rows


def _source(one: Mapping[str, Any], found: Lineage) -> Html:
    maker = (found.nodes.get(str(one.get("digest"))) or {}).get("stage")
    held = ", ".join(one.get("holds") or {})
    by = f", by {maker}" if maker else f", holds {held}" if held else ""
    return join([tag("code", one.get("path", "")), " ", tag("code", str(one.get("digest", ""))[:SHORT]), by])


def _recorded(stage: Outcome) -> list[Row]:
    """Of a checkpoint from before chains."""
    record, measured = stage.record, stage.metrics or {}
    rows: list[Row] = [("steps", number(record.get("step", "–"))), ("seed", str(record.get("seed", "–")))]
    sources = dict(record.get("inputs") or {}) | ({"parent": record["parent"]} if record.get("parent") else {})
    for name, source in sources.items():
        digest = tag("code", str(source.get("digest", ""))[:SHORT])
        rows.append((f"read {name}", join([tag("code", source.get("path", "")), ", digest ", digest])))
    if isinstance(record.get("code"), str):
        rows.append(("code", tag("code", record["code"][:SHORT])))
    if RAN_ON in measured:
        rows.append(("hardware", measured[RAN_ON]))
    rows.append(("versions", ", ".join(f"{name} {value}" for name, value in (record.get("environment") or {}).items())))
    return rows
