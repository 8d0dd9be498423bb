"""Scores of the evaluation as the page shows them: a row per system or reference, a column per score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipelines.evaluation.glossary import NAMES, SCORES, meaning
from pipelines.evaluation.markup import Html, join, tag
from pipelines.evaluation.outcomes import Outcome
from pipelines.evaluation.sections import number, table

Outcomes = Mapping[str, Outcome]


def scores_of(stages: Outcomes, kind: str) -> dict[str, dict[str, Any]]:
    """Scores of the evaluation (``<kind>/<name>/<score>``) by name; a split is a kind too; none before it ran."""
    metrics = (stages["evaluation"].metrics or {}) if "evaluation" in stages else {}
    found: dict[str, dict[str, Any]] = {}
    for path, value in metrics.items():
        of_kind, _, rest = path.partition("/")
        name, _, score = rest.partition("/")
        if of_kind == kind and score:
            found.setdefault(name, {})[score] = value
    return found


ENDS = ("_spread", "_low", "_high")
"""Of numbers that say how sure another number is."""


def score_table(stages: Outcomes, is_shown: Callable[[str], bool]) -> Html:
    """Systems, and quieter below them the references; a column per score."""
    scored, beside = scores_of(stages, "systems"), scores_of(stages, "references")
    every = dict.fromkeys([*SCORES, *(name for row in (*scored.values(), *beside.values()) for name in row)])
    known = {name for row in (*scored.values(), *beside.values()) for name in row if not name.endswith(ENDS)}
    shown = [name for name in every if name in known and is_shown(name)]
    heads = [tag("span", _heading(name), title=meaning(name).text) for name in shown]
    rows = [
        (tag(kind, named(name)), *(with_interval(row, column) for column in shown))
        for kind, group in (("b", scored), ("i", beside))
        for name, row in group.items()
        if any(column in row for column in shown)
    ]
    return table(("", *heads), rows, "systems")


def named(name: str) -> str:
    """A system or reference, as the page calls it."""
    return NAMES.get(name, name.replace("_", " "))


def _heading(name: str) -> Html:
    said = meaning(name)
    target = {"higher": "↑", "lower": "↓"}.get(said.better, said.better)
    words = SCORES.get(name, name.rpartition("/")[2].replace("_", " ")) + (f" ({said.unit})" if said.unit else "")
    return join([words, tag("small", f" {target}")])


def with_interval(row: Mapping[str, Any], name: str) -> Html | str:
    """One score of a row with its 95 % interval, where it has one; a dash where it was not measured."""
    if row.get(name) is None:
        return "–"
    value = f"{row[name]:.2f}" if abs(row[name]) < 100 else number(row[name])
    ends = row.get(f"{name}_low"), row.get(f"{name}_high")
    if ends[0] is None or ends[1] is None:
        return value
    return join([value, tag("small", f" {float(ends[0]):.2f} to {float(ends[1]):.2f}", title="95 % interval")])
