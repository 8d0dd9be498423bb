"""The refiner's ablation at toy size: every row trains, the table and its verdicts are what the numbers say."""

import json
import math
from pathlib import Path

import pytest

from benchmarks import refiner_ablation as ablation
from pipelines.params import ParamsError
from tests.generation.drifting.test_refine import World
from tests.generation.toy import refining


@pytest.mark.costly
def test_every_row_trains_and_goes_on_from_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    project = ablation.Project(world.latents, world.encoder, world.classes, world.gates)
    section, wanted = refining().model_dump(mode="json"), ablation.rows(2)
    assert len(wanted) == 18
    chosen = {name: wanted[name] for name in (ablation.BASELINE, "… shuffled classes")}
    out = tmp_path / "found.json"
    found = ablation.measured(section, chosen, 2, 2, project, out)
    assert all(len(runs) == 2 and runs[0] != runs[1] for runs in found.values())
    lines = ablation.table(found)
    assert lines[2].startswith("| interpolation alone | 0 |") and len(lines) == 3 + len(chosen) + 1
    monkeypatch.setattr(ablation, "trained", None)  # nothing is trained twice
    assert ablation.measured(section, chosen, 2, 2, project, out) == json.loads(out.read_text()) == found
    fewer = ablation.measured(section, {ablation.BASELINE: {}}, 2, 1, project, out)
    assert fewer == {ablation.BASELINE: found[ablation.BASELINE][:1]}, "as many seeds as are asked for"
    assert json.loads(out.read_text()) == found, "other rows stay"


def test_every_row_changes_the_section_as_its_name_says() -> None:
    section = refining().model_dump(mode="json")
    made = {name: ablation.changed(section, row, 90, 1) for name, row in ablation.rows(90).items()}
    plain = {name: json.dumps(one.model_dump(mode="json"), sort_keys=True) for name, one in made.items()}
    for shuffled, other in (
        ("… shuffled classes", "energy score, then drifting"),
        ("drifting alone, per class, shuffled classes", "drifting alone, per class"),
    ):
        assert plain.pop(shuffled) == plain[other]
    assert len(set(plain.values())) == len(plain)
    assert made[ablation.BASELINE].drift is None and made[ablation.BASELINE].regression.spread is None
    longer = {name for name, one in made.items() if one.training.steps == 360}
    assert longer == {name for name in made if name.endswith("4 x the updates")} and len(longer) == 2
    assert all(one.training.steps in (90, 360) and one.training.seed == 1 for one in made.values())
    with pytest.raises((ParamsError, ValueError)):
        ablation.changed(section, {"drift.samples": 0}, 90, 1)


def test_a_verdict_needs_an_interval_beside_zero() -> None:
    assert ablation.decision([1.0, 1.1, 0.9], [2.0, 2.1, 1.9]).startswith("keep (-1.00 ± 0.00)")
    assert ablation.decision([2.0, 2.1, 1.9], [1.0, 1.1, 0.9]).startswith("drop (+1.00")
    assert ablation.decision([1.0, 3.0, 2.0], [2.0, 2.1, 1.9]).startswith("no difference shown")
    assert ablation.decision([1.0], [2.0, 2.0]) == "one seed (-1.00)", "one seed decides nothing"
    assert ablation.quoted([1.0]) == "1.000" and ablation.quoted([1.0, 1.0]) == "1.000 ± 0.000"
    assert math.isinf(ablation.interval([1.0])[1])
