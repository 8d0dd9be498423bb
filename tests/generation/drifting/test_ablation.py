"""The refiner's ablation at toy size: every row trains, the table and its verdicts are what the numbers say."""

import json
import math
from pathlib import Path

import pytest

from benchmarks import refiner_ablation as ablation
from pipelines.params import ParamsError
from tests.generation.drifting.test_refine import World
from tests.generation.toy import refining


def test_every_row_trains_and_goes_on_from_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    project = ablation.Project(world.latents, world.encoder, world.classes, world.gates)
    section, wanted = refining().model_dump(mode="json"), ablation.rows(2)
    assert len(wanted) == 13
    chosen = {name: wanted[name] for name in (ablation.BASELINE, "… shuffled classes")}
    out = tmp_path / "found.json"
    found = ablation.measured(section, chosen, 2, 2, project, out)
    assert all(len(runs) == 2 and runs[0] != runs[1] for runs in found.values())
    lines = ablation.table(found)
    assert lines[2].startswith("| interpolation alone | 0 |") and len(lines) == 3 + len(chosen) + 1
    monkeypatch.setattr(ablation, "trained", None)  # nothing is trained twice
    assert ablation.measured(section, chosen, 2, 2, project, out) == json.loads(out.read_text()) == found


def test_every_row_changes_the_section_as_its_name_says() -> None:
    section = refining().model_dump(mode="json")
    made = {name: ablation.changed(section, row, 90, 1) for name, row in ablation.rows(90).items()}
    plain = {name: json.dumps(one.model_dump(mode="json"), sort_keys=True) for name, one in made.items()}
    shuffled = plain.pop("… shuffled classes")
    assert shuffled == plain["energy score, then drifting"] and len(set(plain.values())) == len(plain)
    assert made[ablation.BASELINE].drift is None and made[ablation.BASELINE].regression.spread is None
    assert all(one.training.steps == 90 and one.training.seed == 1 for one in made.values())
    with pytest.raises((ParamsError, ValueError)):
        ablation.changed(section, {"drift.samples": 0}, 90, 1)


def test_a_verdict_needs_an_interval_beside_zero() -> None:
    assert ablation.decision([1.0, 1.1, 0.9], [2.0, 2.1, 1.9]).startswith("keep (-1.00 ± 0.00)")
    assert ablation.decision([2.0, 2.1, 1.9], [1.0, 1.1, 0.9]).startswith("drop (+1.00")
    assert ablation.decision([1.0, 3.0, 2.0], [2.0, 2.1, 1.9]).startswith("no difference shown")
    assert ablation.decision([1.0], [2.0]).startswith("no difference shown"), "one seed decides nothing"
    assert math.isinf(ablation.interval([1.0])[1])
