"""Does looking back pay, and do own errors? The base trained on, against the autoregressive stage, several seeds.

    python -m benchmarks.world_ablation --steps 200 --seeds 3 --out .work/world_ablation.json

Every seed trains the base for ``--steps`` updates and goes on from it: the autoregressive stage without own errors, and
the same with them, with as many updates as params.yaml has in proportion. Beside them the base itself is trained
longer, by the processor time that the former takes (one schedule over all). With ``--init`` all three go on from
one trained base instead, which is trained on with the rates of the autoregressive stage. All are rolled out from the
same held-out pictures under the same actions. Reads the project's latents and autoencoder as the stages do. Intervals
are over seeds (95 %, Student's t), differences paired by seed. With ``--out`` what is finished is kept there, the base
and an unfinished training beside it, and the same command goes on from them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.refiner_ablation import interval
from pipelines.document import read_document
from pipelines.generation.world_model import measured
from pipelines.generation.world_model.params import WorldModelParams
from pipelines.generation.world_model.train import train

BASE, BACK = "world_model", "world_model_autoregressive"
LONGER, TAUGHT, OWN = "the base, trained on", "looks back", "looks back, own errors"
PAIRS = ((TAUGHT, LONGER), (OWN, TAUGHT))
OWN_ERRORS = {"share": 0.5, "every": 8, "after": 40, "capacity": 256}
NUMBERS = {
    "action_accuracy": ("action_accuracy_chance", "chance"),
    "action_accuracy/late": ("action_accuracy_chance", "chance"),
    "identity_agreement/late": ("identity_agreement_chance", "chance"),
    "feature_distance/late": ("feature_distance_real", "real clips"),
    "error/frame_16": ("error_frozen/frame_16", "standing still"),
    "counterfactual_accuracy": ("counterfactual_accuracy_chance", "chance"),
    "return_distance": ("return_distance_still", "held still on the way back"),
    "return_distance/late": ("return_distance_still", "held still on the way back"),
    "seam_ratio": ("seam_ratio_real", "real clips"),
}
"""Numbers of rollouts, and beside which each stands: chance, real clips, standing still. ``late``: the second half."""
LATE = ("q3", "q4")
TIMED, SAVED = 24, 20
"""Updates by which the cost of one is measured; updates between the states from which a training goes on."""
Found = Mapping[str, float]


def section(name: str, steps: int, seed: int, **changes: Any) -> WorldModelParams:
    """A section of params.yaml with so many updates, nothing shown on the way."""
    values = dict(read_document(Path("params.yaml"))[0][name])
    training = {**values["training"], "steps": steps, "seed": seed, "validate_every": steps, "save_every": SAVED}
    validation = {**values["validation"], "shown": 0}
    return WorldModelParams.model_validate({**values, "training": training, "validation": validation} | changes)


def shipped(name: str) -> int:
    """Updates of a section as it is in params.yaml."""
    return read_document(Path("params.yaml"))[0][name]["training"]["steps"]


def trained(params: WorldModelParams, folder: Path, init: Path | None = None) -> Found:
    """Numbers of one training."""
    places = {"out": folder / "checkpoint", "metrics": folder / "metrics.json", "plots": folder / "plots"}
    train(params, Path("data/latents"), Path("checkpoints/autoencoder"), init=init, **places)
    return with_late(json.loads(places["metrics"].read_text()))


def with_late(numbers: dict[str, Any]) -> Found:
    """The same with means over the second half of the rollouts, where a number has quarters; without words."""
    found = {name: value for name, value in numbers.items() if isinstance(value, int | float)}
    for name in [name.removesuffix("/q4") for name in found if name.endswith("/q4")]:
        found[f"{name}/late"] = sum(found[f"{name}/{quarter}"] for quarter in LATE) / len(LATE)
    return found


def seconds_an_update(name: str, place: Path, init: Path | None) -> float:
    """Processor seconds of one update, from the difference of a longer and a shorter training, both after a warm-up."""
    took = []
    for number, steps in enumerate((1, 1, 1 + TIMED)):  # the first one of a process also imports and reads
        began = time.process_time()
        trained(section(name, steps, number, rollouts=None, own_errors=None), place / f"timed-{name}-{number}", init)
        took.append(time.process_time() - began)
    return (took[2] - took[1]) / TIMED


class Finished:
    """Numbers by row in the order of seeds; with a file, the same command goes on from them.

    Raises:
        SystemExit: the file is of another number of updates, or of something else.
    """

    def __init__(self, out: Path | None, steps: int) -> None:
        self.out, self.steps = out, steps
        self.rows: dict[str, list[Found]] = {}
        if out is None or not out.is_file():
            return
        try:
            known = json.loads(out.read_text(encoding="utf-8"))
            before, self.rows = known["steps"], dict(known["rows"])
        except (ValueError, KeyError, TypeError):
            raise SystemExit(f"{out}: no table of this command; name another --out.") from None
        if before != steps:
            raise SystemExit(f"{out}: of {before} updates, this is of {steps}; name another --out.")

    def once(self, row: str, seed: int, make: Callable[[], Found]) -> Found:
        """What ``make`` gave for this row and seed when it was first asked for; seeds come in order."""
        runs = self.rows.setdefault(row, [])
        if len(runs) == seed:
            runs.append(make())
            if self.out is not None:
                text = json.dumps({"steps": self.steps, "rows": self.rows}, indent=1)
                self.out.parent.mkdir(parents=True, exist_ok=True)
                part = self.out.with_name(f"{self.out.name}.part")
                part.write_text(text, encoding="utf-8")
                part.replace(self.out)
        return runs[seed]


@dataclass(frozen=True)
class Budget:
    """Updates of the base, of what goes on from it, and of the base beyond that for the same processor time."""

    steps: int
    more: int
    equal: int
    seconds: Found

    @classmethod
    def measured(cls, steps: int, finished: Finished, place: Path) -> Budget:
        """By the cost of an update here, measured once."""

        def costs() -> Found:
            base = seconds_an_update(BASE, place, None)
            return {BASE: base, BACK: seconds_an_update(BACK, place, place / f"timed-{BASE}-0" / "checkpoint")}

        seconds, more = (
            finished.once("seconds an update", 0, costs),
            max(1, round(steps * shipped(BACK) / shipped(BASE))),
        )
        return cls(steps, more, max(1, round(more * seconds[BACK] / seconds[BASE])), seconds)


def one_seed(budget: Budget, seed: int, finished: Finished, place: Path, init: Path | None) -> None:
    """The base, and what goes on from it; or what goes on from ``init``."""
    start, more, rows = init or place / f"{seed}-base" / "checkpoint", budget.more, {}
    if init is None:
        rows["the base"] = lambda: trained(section(BASE, budget.steps, seed, rollouts=None), start.parent)
        longer = section(BASE, budget.steps + budget.equal, seed)
    else:
        training = section(BACK, budget.equal, seed).model_dump(mode="json")["training"]
        longer = section(BASE, budget.equal, seed, training=training)
    rows[TAUGHT] = lambda: trained(section(BACK, more, seed, own_errors=None), place / f"{seed}-taught", start)
    rows[LONGER] = lambda: trained(longer, place / f"{seed}-longer", init)
    rows[OWN] = lambda: trained(section(BACK, more, seed, own_errors=OWN_ERRORS), place / f"{seed}-own", start)
    for row, make in rows.items():
        finished.once(row, seed, make)


def once_trained(make: Callable[..., Any]) -> Callable[..., Any]:
    """The reader of actions depends on the data and its own updates alone: one serves all trainings."""
    made: dict[tuple[Path, int, str], Any] = {}

    def trained_reader(shards: Any, steps: int, device: Any, kept: Any = None) -> Any:
        key = (shards.folder, steps, str(device))
        if key not in made:
            made[key] = make(shards, steps, device)
        return made[key]

    return trained_reader


def table(found: Mapping[str, Sequence[Found]]) -> list[str]:
    """A row per number: every continuation, the differences that are asked about, and what a number stands beside."""
    heads = [*found, *(f"{one} less {other}" for one, other in PAIRS), "beside"]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for name, beside in NUMBERS.items():
        number = f"rollout/{name}"
        known = [row for row in found if all(number in run for run in found[row])]
        cells = [_shown([run[number] for run in found[row]]) if row in known else "undefined" for row in found]
        for one, other in PAIRS:
            paired = zip(found[one], found[other], strict=True)
            both = one in known and other in known
            cells.append(_shown([own[number] - its[number] for own, its in paired]) if both else "undefined")
        lines.append(f"| {name} | {' | '.join([*cells, _beside(beside, found[OWN])])} |")
    return lines


def _beside(what: tuple[str, str] | None, runs: Sequence[Found]) -> str:
    name, word = what or ("", "")
    for number in (f"rollout/{name}", f"reader/{name}"):
        if number in runs[0]:
            return f"{sum(run[number] for run in runs) / len(runs):.3f} ({word})"
    return ""


def _shown(values: Sequence[float]) -> str:
    middle, half = interval(values)
    return f"{middle:.3f} ± {half:.3f}"


def main() -> None:
    """Every seed, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where the numbers of finished trainings are kept")
    parser.add_argument("--init", type=Path, help="a trained base that all go on from, e.g. checkpoints/world_model")
    given = parser.parse_args()
    measured.trained_reader = once_trained(measured.trained_reader)
    finished = Finished(given.out, given.steps)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) if given.out is None else given.out.with_suffix(".runs")
        budget = Budget.measured(given.steps, finished, place)
        for seed in range(given.seeds):
            one_seed(budget, seed, finished, place, given.init)
    print(
        f"\n{given.seeds} seeds; {given.init or f'{budget.steps} updates of the base'} (one takes "
        f"{budget.seconds[BASE]:.2f} s), then "
        f"{budget.more} that look back ({budget.seconds[BACK]:.2f} s each) or {budget.equal} more of the base"
    )
    print("\n".join(table({row: finished.rows[row][: given.seeds] for row in (LONGER, TAUGHT, OWN)})))


if __name__ == "__main__":
    main()
