"""Systems against one another in the page: verdicts pair by pair, and the same numbers on other splits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.evaluation.glossary import SCORES
from pipelines.evaluation.markup import Html, tag
from pipelines.evaluation.score_table import Outcomes, named, scores_of, with_interval
from pipelines.evaluation.sections import folded, table

GROUPS = ("agreement/all_identity", "agreement/all_motion")
SPLITS = {"validation": ("kernel_distance", "motion_ratio", *GROUPS), "composition": GROUPS}
"""What the page shows of each split beside test."""


def pair_table(folder: Path) -> list[Html]:
    """Rows are pairs of systems, columns what they are compared by; empty where the evaluation wrote no comparisons."""
    path = folder / "comparisons.json"
    if not path.is_file():
        return []
    pairs: dict[str, dict[str, dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))
    columns = [name for name in SCORES if any(name in row for row in pairs.values())]
    rows = []
    for pair, row in pairs.items():
        words = " against ".join(named(name) for name in pair.split(" against "))
        rows.append((tag("b", words), *(_verdict(row[name]) if name in row else "–" for name in columns)))
    said = (
        "Each system against each other on equal prompts: the first one's verdict, and the difference with its 95 % "
        "interval over prompts. One training run each; `reel ablate` repeats trainings over seeds."
    )
    heads = ("", *(SCORES[name] for name in columns))
    return [folded(f"Pair by pair ({len(rows)} pairs)", tag("p", said), table(heads, rows, "systems"))]


def _verdict(found: Mapping[str, Any]) -> Html:
    size = f"{found['difference']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"
    return tag("span", tag("b", str(found["verdict"])), tag("small", f" {size}"))


def beside_splits(stages: Outcomes) -> list[Html]:
    """A table of the validation split, by which models were chosen, and one of combinations never seen together."""
    titles = {
        "validation": "On the validation split, by which models were chosen",
        "composition": "On combinations that no training clip shows",
    }
    parts: list[Html] = []
    for split, columns in SPLITS.items():
        rows = [
            (tag("b", named(name)), *(with_interval(row, column) for column in columns))
            for name, row in scores_of(stages, split).items()
        ]
        if rows:
            heads = ("", *(SCORES[column] for column in columns))
            parts += [tag("h3", titles[split]), table(heads, rows, "systems")]
    return parts
