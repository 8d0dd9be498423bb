"""Does looking back pay, and do own errors? The base trained on, against the autoregressive stage, several seeds.

    python -m benchmarks.world_ablation --steps 200 --seeds 3

Every seed trains the base for ``--steps`` updates and goes on from it: the autoregressive stage, and the same without
own errors, with as many updates as params.yaml has in proportion. Beside them the base itself is trained longer, by
the processor time that the autoregressive stage takes (one schedule over all). All are rolled out from the same
held-out pictures under the same actions. Reads the project's latents and autoencoder as the stages do. Intervals are
over seeds (95 %, Student's t), differences paired by seed. Three seeds at 200 updates: about 15 minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.refiner_ablation import interval
from pipelines.document import read_document
from pipelines.generation.world_model.params import WorldModelParams
from pipelines.generation.world_model.stage import train

BASE, BACK = "world_model", "world_model_autoregressive"
LONGER, OWN, TAUGHT = "the base, trained on", "looks back", "looks back, no own errors"
NUMBERS = (
    "rollout/action_accuracy",
    "rollout/action_accuracy/q4",
    "rollout/identity_agreement/q4",
    "rollout/feature_distance/q4",
    "rollout/error/frame_16",
)
TIMED = 12
"""Updates by which the cost of one is measured."""
Found = Mapping[str, float]


def section(name: str, steps: int, seed: int, **changes: Any) -> WorldModelParams:
    """A section of params.yaml with so many updates, nothing shown on the way."""
    values = dict(read_document(Path("params.yaml"))[0][name])
    training = {**values["training"], "steps": steps, "seed": seed, "validate_every": steps, "save_every": steps}
    validation = {**values["validation"], "shown": 0}
    return WorldModelParams.model_validate({**values, "training": training, "validation": validation, **changes})


def shipped(name: str) -> int:
    """Updates of a section as it is in params.yaml."""
    return read_document(Path("params.yaml"))[0][name]["training"]["steps"]


def trained(params: WorldModelParams, folder: Path, init: Path | None = None) -> Found:
    """Numbers of one training."""
    places = {"out": folder / "checkpoint", "metrics": folder / "metrics.json", "plots": folder / "plots"}
    train(params, Path("data/latents"), Path("checkpoints/autoencoder"), init=init, **places)
    return json.loads(places["metrics"].read_text())


def seconds_an_update(name: str, place: Path, init: Path | None) -> float:
    """Processor seconds of one update, from the difference of a longer and a shorter training."""
    took, storing = [], {}
    if name == BACK:  # own errors are stored from the first update on, as most updates of a whole training do
        storing = {"own_errors": {**read_document(Path("params.yaml"))[0][name]["own_errors"], "after": 0}}
    for steps in (1, 1 + TIMED):
        began = time.process_time()
        trained(section(name, steps, 0, rollouts=None, **storing), place / f"timed-{name}-{steps}", init)
        took.append(time.process_time() - began)
    return (took[1] - took[0]) / TIMED


def one_seed(steps: int, more: int, equal: int, seed: int, place: Path) -> dict[str, Found]:
    """The base trained on, and both continuations of the base."""
    base = place / f"{seed}-base"
    trained(section(BASE, steps, seed, rollouts=None), base)
    return {
        LONGER: trained(section(BASE, steps + equal, seed), place / f"{seed}-longer"),
        OWN: trained(section(BACK, more, seed), place / f"{seed}-own", base / "checkpoint"),
        TAUGHT: trained(section(BACK, more, seed, own_errors=None), place / f"{seed}-taught", base / "checkpoint"),
    }


def table(found: Mapping[str, Sequence[Found]]) -> list[str]:
    """A row per number: every continuation, and the differences that are asked about."""
    pairs = ((OWN, LONGER), (OWN, TAUGHT))
    heads = [*found, *(f"{one} less {other}" for one, other in pairs)]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for number in NUMBERS:
        known = [name for name in found if all(number in run for run in found[name])]
        cells = [_shown([run[number] for run in found[name]]) if name in known else "undefined" for name in found]
        for one, other in pairs:
            paired = zip(found[one], found[other], strict=True)
            both = one in known and other in known
            cells.append(_shown([own[number] - its[number] for own, its in paired]) if both else "undefined")
        lines.append(f"| {number} | {' | '.join(cells)} |")
    return lines


def _shown(values: Sequence[float]) -> str:
    middle, half = interval(values)
    return f"{middle:.3f} ± {half:.3f}"


def main() -> None:
    """Every seed, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    found: dict[str, list[Found]] = {LONGER: [], OWN: [], TAUGHT: []}
    with tempfile.TemporaryDirectory() as folder:
        place, more = Path(folder), max(1, round(given.steps * shipped(BACK) / shipped(BASE)))
        costs = {BASE: seconds_an_update(BASE, place, None)}
        costs[BACK] = seconds_an_update(BACK, place, place / f"timed-{BASE}-1" / "checkpoint")
        equal = round(more * costs[BACK] / costs[BASE])
        for seed in range(given.seeds):
            for name, numbers in one_seed(given.steps, more, equal, seed, place).items():
                found[name].append(numbers)
    print(
        f"\n{given.seeds} seeds; {given.steps} updates of the base ({costs[BASE]:.2f} s each), then {more} that look "
        f"back ({costs[BACK]:.2f} s each) or {equal} more of the base"
    )
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
