"""What differs between a stage's last run and the one before, out of the records of the runs: causes and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pipelines.evaluation.glossary import meaning
from pipelines.evaluation.markup import Html, join, shortened, tag
from pipelines.evaluation.outcomes import Outcome, flat
from pipelines.evaluation.sections import number, table
from pipelines.provenance import ABSENT, differing, text_of

MOST_CAUSES, MOST_NUMBERS = 6, 5
"""Of one stage that are named."""
Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Change:
    """Two runs of a stage: when each ended, why the second came about, and the numbers of both (name, was, now)."""

    stage: str
    before: str
    after: str
    causes: tuple[str, ...]
    numbers: tuple[tuple[str, float, float], ...]


def changes(stages: Mapping[str, Outcome], records: Records) -> list[Change]:
    """Of every stage that has run at least twice with a difference, in the order of the graph."""
    found = []
    for name, stage in stages.items():
        runs = sorted((one for one in records if one["header"].get("stage") == name), key=_ended)
        if len(runs) > 1:
            found.append(_change(stage, runs[-2], runs[-1]))
    return found


def _ended(record: Mapping[str, Any]) -> str:
    return str(record["header"].get("ended_at") or "")


def _change(stage: Outcome, before: Mapping[str, Any], after: Mapping[str, Any]) -> Change:
    return Change(
        stage.name, _ended(before), _ended(after), tuple(_causes(before, after)), tuple(_numbers(stage, before, after))
    )


def _causes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[str]:
    pairs = differing(before.get("params") or {}, after.get("params") or {})
    yield from (f"{name} {_said(was)} → {_said(now)}" for name, was, now in pairs)
    codes = [str((one["header"].get("code") or {}).get("identity"))[:8] for one in (before, after)]
    if codes[0] != codes[1]:
        yield f"code {codes[0]} → {codes[1]}"
    data = [{name: facts.get("digest") for name, facts in (one.get("data") or {}).items()} for one in (before, after)]
    for name in dict.fromkeys([*data[0], *data[1]]):
        was, now = (str(side.get(name))[:8] for side in data)
        if was != now:
            yield f"input {name} {was} → {now}"


def _said(value: Any) -> str:
    return "none" if value in (ABSENT, None) else text_of(value)


def _numbers(stage: Outcome, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[tuple[str, float, float]]:
    """The stage's headline, as dvc.yaml names it, else its first numbers."""
    one, other = (_plain(flat(run.get("results") or {})) for run in (before, after))
    shared = [name for name in other if name in one and name != "seconds"]
    chosen = [name for name in shared if any(fnmatchcase(name, pattern) for pattern in stage.headline)]
    yield from ((name, one[name], other[name]) for name in (chosen or shared)[:MOST_NUMBERS])


def _plain(values: Mapping[str, Any]) -> dict[str, float]:
    return {k: v for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}


# ---- on the page --------------------------------------------------------------------------------------------------


def section(found: Sequence[Change]) -> Html:
    """A row for each stage that ran again."""
    heading = tag("h2", "Changed since the run before")
    if not found:
        said = "No stage has run twice here with other code, parameters or inputs, so there is nothing to compare."
        return tag("section", heading, tag("p", said), id="changes", class_="panel")
    said = "Of every stage the last two runs that are recorded here. One run each: what differs may be noise."
    rows = [(_stage(one), _listed(one.causes), join(map(_number, one.numbers))) for one in found]
    body = table(("stage", "what was changed", "what came of it"), rows, "changes")
    return tag("section", heading, tag("p", said), body, id="changes", class_="panel")


def _stage(one: Change) -> Html:
    when = f"{one.before[:16].replace('T', ' ')} → {one.after[:16].replace('T', ' ')}"
    return join([tag("a", one.stage, href=f"#stage-{one.stage}"), tag("small", when)])


def _listed(causes: Sequence[str]) -> Html:
    more = [f"and {len(causes) - MOST_CAUSES} more"] if len(causes) > MOST_CAUSES else []
    shown = [*causes[:MOST_CAUSES], *more] or ["nothing that is recorded: the same again"]
    return join(tag("div", shortened(cause)) for cause in shown)


def _number(pair: tuple[str, float, float]) -> Html:
    name, was, now = pair
    better = meaning(name).better
    kind = None
    if better in ("higher", "lower") and now != was:
        kind = "right" if (now > was) == (better == "higher") else "wrong"
    values = tag("b", f"{number(was)} → {number(now)}", class_=f"reading {kind}" if kind else None)
    return tag("div", tag("code", shortened(name)), " ", values)
