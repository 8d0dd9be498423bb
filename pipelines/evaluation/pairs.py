"""Systems against one another in the page: verdicts pair by pair, and the same numbers on other splits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.evaluation.glossary import NAMES, SCORES
from pipelines.evaluation.markup import Html, tag
from pipelines.evaluation.project import Stage
from pipelines.evaluation.sections import table

GROUPS = ("agreement/all_identity", "agreement/all_motion")
SPLITS = {"validation": ("kernel_distance", "motion_ratio", *GROUPS), "composition": GROUPS}
"""What the page shows of each split beside test."""


def _named(name: str) -> str:
    return NAMES.get(name, name.replace("_", " "))


def pair_table(folder: Path) -> list[Html]:
    """Rows are pairs of systems, columns what they are compared by; empty where the evaluation wrote no comparisons."""
    path = folder / "comparisons.json"
    if not path.is_file():
        return []
    pairs: dict[str, dict[str, dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))
    columns = [name for name in SCORES if any(name in row for row in pairs.values())]
    rows = []
    for pair, row in pairs.items():
        words = " against ".join(_named(name) for name in pair.split(" against "))
        rows.append((tag("b", words), *(_verdict(row[name]) if name in row else "–" for name in columns)))
    said = (
        "Each system against each other on equal prompts: the first one's verdict, and the difference with its 95 % "
        "interval over prompts. One training run each; `reel ablate` repeats trainings over seeds."
    )
    heads = ("", *(SCORES[name] for name in columns))
    return [tag("h3", "Pair by pair"), tag("p", said), table(heads, rows, "systems")]


def _verdict(found: Mapping[str, Any]) -> Html:
    size = f"{found['difference']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"
    return tag("span", tag("b", str(found["verdict"])), tag("small", f" {size}"))


def beside_splits(stages: Mapping[str, Stage]) -> list[Html]:
    """A table of the validation split, by which models were chosen, and one of combinations never seen together."""
    metrics = (stages["evaluation"].metrics or {}) if "evaluation" in stages else {}
    titles = {
        "validation": "On the validation split, by which models were chosen",
        "composition": "On combinations that no training clip shows",
    }
    parts: list[Html] = []
    for split, columns in SPLITS.items():
        names = dict.fromkeys(
            path.split("/")[1] for path in metrics if path.startswith(f"{split}/") and path.count("/") > 1
        )
        rows = [
            (tag("b", _named(name)), *(_cell(metrics, f"{split}/{name}/{column}") for column in columns))
            for name in names
        ]
        if rows:
            heads = ("", *(SCORES[column] for column in columns))
            parts += [tag("h3", titles[split]), table(heads, rows, "systems")]
    return parts


def _cell(metrics: Mapping[str, Any], path: str) -> Html | str:
    if path not in metrics:
        return "–"
    ends = metrics.get(f"{path}_low"), metrics.get(f"{path}_high")
    value = f"{float(metrics[path]):.2f}"
    if None in ends:
        return value
    return tag("span", value, tag("small", f" {float(ends[0]):.2f} to {float(ends[1]):.2f}"))  # type: ignore[arg-type]
