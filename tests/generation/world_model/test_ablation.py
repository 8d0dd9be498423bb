"""The world model's ablation: what is trained from what, what outlives an interruption, what the table says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import world_ablation as ablation
from pipelines.generation.world_model.params import WorldModelParams

BUDGET = ablation.Budget(steps=80, more=50, equal=70, seconds={ablation.BASE: 0.1, ablation.BACK: 0.14})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[WorldModelParams, Path | None]]:
    """What is trained, and from what; the numbers of a training are its place in this list."""
    found: list[tuple[WorldModelParams, Path | None]] = []

    def trained(params: WorldModelParams, folder: Path, init: Path | None = None) -> dict[str, float]:
        found.append((params, init))
        return {"rollout/action_accuracy": float(len(found))}

    monkeypatch.setattr(ablation, "trained", trained)
    return found


def test_all_that_is_compared_has_the_same_budget_and_the_same_start(asked: list, tmp_path: Path) -> None:
    ablation.one_seed(BUDGET, 0, ablation.Finished(None, 80), tmp_path, None)
    (base, none), (taught, start), (longer, scratch), (own, other) = asked
    assert none is scratch is None and start == other == tmp_path / "0-base/checkpoint"
    assert [one.training.steps for one in (base, own, longer, taught)] == [80, 50, 150, 50]
    assert own.own_errors is not None and taught.own_errors is None and own.memory and not longer.memory
    asked.clear()
    ablation.one_seed(BUDGET, 0, ablation.Finished(None, 80), tmp_path, tmp_path / "given")
    assert [init for _, init in asked] == [tmp_path / "given"] * 3
    (taught, _), (longer, _), _ = asked
    changed = {"steps": 70, "validate_every": 70}
    assert longer.training == taught.training.model_copy(update=changed) and not longer.memory


def test_what_is_finished_is_not_trained_again(asked: list, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    for count, seeds in ((3, 1), (6, 2), (6, 2)):
        finished = ablation.Finished(out, 80)
        for seed in range(seeds):
            ablation.one_seed(BUDGET, seed, finished, tmp_path, tmp_path)
        assert len(asked) == count
    assert [run["rollout/action_accuracy"] for run in ablation.Finished(out, 80).rows[ablation.OWN]] == [3.0, 6.0]
    with pytest.raises(SystemExit, match="of 80 updates, this is of 90; name another --out"):
        ablation.Finished(out, 90)


def test_a_broken_file_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "found.json").write_text("[1")
    with pytest.raises(SystemExit, match="no table of this command"):
        ablation.Finished(tmp_path / "found.json", 80)


def test_the_table_pairs_differences_by_seed_and_names_what_is_undefined() -> None:
    def run(value: float) -> dict[str, Any]:
        numbers = {"rollout/action_accuracy": value, "rollout/action_accuracy_chance": 0.25}
        return dict(ablation.with_late({**numbers, "rollout/seam_ratio/q3": value, "rollout/seam_ratio/q4": value + 2}))

    assert run(1.0)["rollout/seam_ratio/late"] == 2.0
    seeds = (0.1, 0.5, 0.9)
    found = {ablation.LONGER: [run(one) for one in seeds], ablation.TAUGHT: [run(one + 0.1) for one in seeds]}
    found[ablation.OWN] = [run(0.2)] * 3
    head, _, accuracy, *rest = ablation.table(found)
    assert head.endswith("| beside |") and "| 0.100 ± 0.000 |" in accuracy, "paired: the spread of seeds is not its own"
    assert accuracy.endswith("| 0.250 (chance) |") and all("undefined" in row for row in rest)
