"""What in the drifting refiner earns its place: each row trained with several seeds, against regression alone.

    python -m benchmarks.refiner_ablation --steps 440 --seeds 3 --out .work/refiner_ablation.json

Reads the project's latents, encoder, classes and diagnostics as the stage does. Judged on validation clips in a space
that no loss looks at (``validation/distance``), and by missing-frame error; equal updates, intervals over seeds (95 %,
Student's t, differences paired by seed). A row is kept if its interval of the distance's difference lies below zero,
dropped if above. With ``--out`` what is finished is kept there, the unfinished training beside it, and the same command
goes on from them.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.document import read_document
from pipelines.generation.drifting import refine
from pipelines.generation.drifting.params import DriftingRefinerParams

BASELINE, ENERGY = "regression alone", "energy score alone"
NUMBERS = ("gain", "distance", "motion_ratio", "spread_share")
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95 % factors by number of seeds."""
EVERY = ("steps", "validate_every")
SAVED = 40
"""Updates between saved states of a training, from which it goes on."""
SHUFFLED = "shuffled"
"""Key of a row that is no part of the section: classes are dealt out at random."""


@dataclass(frozen=True)
class Times:
    """A row's change of a number: so many times the section's."""

    factor: int


Row = Mapping[str, Any]
MAPS, STATISTICS, LATENTS = "maps", "statistics", "latents"


def only(*families: str) -> Row:
    """The features of these families alone."""
    return {f"drift.features.{name}": None for name in (MAPS, STATISTICS, LATENTS) if name not in families}


def problems(clip: float, pseudo_class: float, pooled: float) -> Row:
    """A mixture of problems."""
    return {"drift.problems": {"clip": clip, "pseudo_class": pseudo_class, "pooled": pooled}}


def rows(steps: int) -> dict[str, Row]:
    """Changes of the section by row; two thirds of the updates are regression unless a row says other."""
    begin = {"drift.begin": steps * 2 // 3, "regression.decay_steps": max(1, steps // 10)}
    alone = {"drift.begin": 0, "regression.floor": 0.0, "regression.decay_steps": 0}
    squared = {"regression.spread": None}
    return {
        BASELINE: {"drift": None, **squared},
        ENERGY: {"drift": None},
        "drifting alone, per clip": {**alone, **problems(1.0, 0.0, 0.0)},
        "drifting alone, per class": {**alone, **problems(0.0, 1.0, 0.0)},
        "drifting alone, pooled": {**alone, **problems(0.0, 0.0, 1.0)},
        "regression, then drifting": {**begin, **squared},
        "energy score, then drifting": begin,
        "… per clip only": {**begin, **problems(1.0, 0.0, 0.0)},
        "… pooled only": {**begin, **problems(0.0, 0.0, 1.0)},
        "… maps only": {**begin, **only(MAPS)},
        "… statistics only": {**begin, **only(STATISTICS)},
        "… raw latents only": {**begin, **only(LATENTS)},
        "… random encoder": {**begin, "drift.features.encoder": "random"},
        "… shuffled classes": {**begin, SHUFFLED: True},
        **more_rows(alone, squared),
    }


def more_rows(alone: Row, squared: Row) -> dict[str, Row]:
    """Labels against none where the drift has problems of classes alone, and what a higher rate and more updates give.

    A class's positives hold the clips that are refined, so each has its own target among them.
    """
    of_class = {**alone, **problems(0.0, 1.0, 0.0)}
    rate = {f"training.optimizer.{name}": Times(3) for name in ("learning_rate", "others.learning_rate")}
    longer = {f"training.{name}": Times(4) for name in EVERY}
    return {
        "drifting alone, per class, shuffled classes": {**of_class, SHUFFLED: True},
        "drifting alone, per class, 3 x the rate": {**of_class, **rate},
        "drifting alone, per class, 4 x the updates": {**of_class, **longer},
        "regression alone, 4 x the updates": {"drift": None, **squared, **longer},
    }


def changed(section: Mapping[str, Any], row: Row, steps: int, seed: int) -> DriftingRefinerParams:
    """The section with a row's changes, applied in their order."""
    values = json.loads(json.dumps(section))
    training = values["training"]
    training |= {name: steps for name in EVERY} | {"seed": seed, "save_every": SAVED}
    edits = {"validation.shown": 0, **row}
    if "drift" in row:  # nothing below a block that is left out
        edits = {name: value for name, value in edits.items() if not name.startswith("drift.")}
    for name, value in edits.items():
        if name == SHUFFLED:
            continue
        *path, last = name.split(".")
        block = values
        for part in path:
            block = block[part]
        block[last] = block[last] * value.factor if isinstance(value, Times) else value
    return DriftingRefinerParams.model_validate(values)


def shuffled(classes: Path, folder: Path) -> Path:
    """The classes dealt out at random: as many of each."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.read_parquet(classes / "assignments.parquet")
    table["pseudo_class"] = np.random.default_rng(0).permutation(table["pseudo_class"].to_numpy())
    table.to_parquet(folder / "assignments.parquet")
    (folder / "codebook.json").write_bytes((classes / "codebook.json").read_bytes())
    return folder


@dataclass(frozen=True)
class Project:
    """What the stage reads."""

    latents: Path = Path("data/latents")
    encoder: Path = Path("checkpoints/latent_mae")
    classes: Path = Path("data/pseudo_classes")
    diagnostics: Path = Path("data/diagnostics")


def trained(params: DriftingRefinerParams, project: Project, classes: Path, folder: Path) -> dict[str, float]:
    """Numbers of one training."""
    places = {"out": folder / "refiner", "metrics": folder / "metrics.json", "plots": folder / "plots"}
    refine.train(params, project.latents, project.encoder, classes, project.diagnostics, **places)
    found = json.loads(places["metrics"].read_text())
    names = (*NUMBERS, "distance_interpolation", "distance_real", "motion_ratio_interpolation")
    return {name: found[f"validation/{name}"] for name in names}


Found = dict[str, list[dict[str, float]]]


def measured(
    section: Mapping[str, Any], wanted: Mapping[str, Row], steps: int, seeds: int, project: Project, out: Path | None
) -> Found:
    """Every row with every seed, all rows of a seed before the next; numbers by row, in the order of seeds."""
    found: Found = json.loads(out.read_text()) if out is not None and out.is_file() else {}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) if out is None else out.with_suffix(".runs")
        dealt = shuffled(project.classes, place / "shuffled")
        for seed in range(seeds):
            for name, row in wanted.items():
                if len(found.setdefault(name, [])) > seed:
                    continue
                params, folder = changed(section, row, steps, seed), place / f"{name}-{seed}"
                classes = dealt if SHUFFLED in row else project.classes
                found[name].append(trained(params, project, classes, folder))
                shutil.rmtree(folder)
                if out is not None:
                    out.write_text(json.dumps(found, indent=1))
    return {name: found[name][:seeds] for name in wanted}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half of the 95 % interval."""
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return statistics.mean(values), STUDENT.get(len(values), 1.96 if len(values) > 1 else math.inf) * spread


def quoted(values: Sequence[float]) -> str:
    """Mean and interval; of one seed its number."""
    middle, half = interval(values)
    return f"{middle:.3f} ± {half:.3f}" if len(values) > 1 else f"{middle:.3f}"


def decision(own: Sequence[float], baseline: Sequence[float]) -> str:
    """What a row's distances say beside the baseline's, seed by seed; those of the first seeds where it has fewer."""
    middle, half = interval([one - other for one, other in zip(own, baseline, strict=False)])
    if len(own) < 2:
        return f"one seed ({middle:+.2f})"
    verdict = "keep" if middle + half < 0 else "drop" if middle - half > 0 else "no difference shown"
    return f"{verdict} ({middle:+.2f} ± {half:.2f})"


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """The rows in markdown."""
    lines = [
        "| row | gain | distance | motion ratio | spread | distance against regression alone |",
        "|---|" + "---|" * 5,
    ]
    first = next(iter(found.values()))[0]
    start = f"{first['distance_interpolation']:.2f} | {first['motion_ratio_interpolation']:.2f}"
    lines.append(f"| interpolation alone | 0 | {start} | 0 | |")
    base = [one["distance"] for one in found[BASELINE]]
    for name, runs in found.items():
        shown = [quoted([run[number] for run in runs]) for number in NUMBERS]
        judged = "" if name == BASELINE else decision([run["distance"] for run in runs], base)
        lines.append(f"| {name} | {' | '.join(shown)} | {judged} |")
    return [*lines, f"Real validation clips have a distance of {first['distance_real']:.2f}."]


def main() -> None:
    """Every row with every seed, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=440)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", help="names of rows beside the baseline; default: all")
    parser.add_argument("--out", type=Path, help="where the numbers of finished trainings are kept")
    given = parser.parse_args()
    section = read_document(Path("params.yaml"))[0]["drifting_refiner"]
    wanted = {name: row for name, row in rows(given.steps).items() if not given.rows or name in (BASELINE, *given.rows)}
    found = measured(section, wanted, given.steps, given.seeds, Project(), given.out)
    print(f"\n{given.steps} updates, {given.seeds} seeds")
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
