"""Batches for drifting problems: units of one class, what lies beside them, and nothing that a queue would remember."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.data.contract import ContractError
from pipelines.data.groups import UNKNOWN, Groups, Size, place_seed
from pipelines.data.shards import Shards
from tests.generation.toy import write_latents

COUNT = 40
USUAL = Size(2, 3, 4)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return Shards(write_latents(tmp_path_factory.mktemp("groups") / "latents", COUNT))


def groups(shards: Shards, size: Size = USUAL, classes: int = 3, **changes) -> Groups:
    known = {key: number % classes for number, key in enumerate(shards.index["key"])}
    given = {"batch_size": 6, "seed": 0, "classes": known, "size": size, **changes}
    return Groups(shards, "train", ("latents", "prompt_embeds"), **given)


def test_a_unit_is_of_one_class_and_nothing_in_it_comes_twice(shards: Shards) -> None:
    reader = groups(shards)
    train = set(shards.rows("train").tolist())
    for step in range(20):
        for unit in reader.units(step):
            own = [*unit.clips, *unit.positives]
            assert {reader.classes[row] for row in own} == {unit.pseudo_class} and len(set(own)) == len(own) == 5
            assert len(set(unit.unconditional)) == 4 and not set(unit.unconditional) & set(unit.clips)
            assert set(own) | set(unit.unconditional) <= train


def test_a_step_is_the_same_whoever_asks_and_whatever_came_before(shards: Shards) -> None:
    first, again = groups(shards), groups(shards)
    whole = first.read(7, 0, 6)
    for step in (3, 9):
        again.read(step, 0, 6)
    parts = [again.read(7, start, start + 2) for start in (4, 0, 2)]
    assert parts[1]["key"] + parts[2]["key"] + parts[0]["key"] == whole["key"] == first.keys(7)
    rows = ("rows", "positives_rows", "unconditional_rows")
    for name in ("latents", "draw", "pseudo_class", "positives", "present", "unconditional", *rows):
        joined = torch.cat([parts[1][name], parts[2][name], parts[0][name]])
        assert torch.equal(joined, whole[name]), name
    assert not set(whole["draw"].tolist()) & set(first.read(8, 0, 6)["draw"].tolist())
    assert whole["draw"][2] == place_seed(0, 7, 2)


def test_real_clips_beside_are_read_once_the_drift_begins(shards: Shards) -> None:
    reader = groups(shards, begin=5)
    assert {"positives", "unconditional"}.isdisjoint(reader.read(4, 0, 6))
    read = reader.read(5, 0, 6)
    assert read["positives"].shape[:2] == (3, 3) and read["unconditional"].shape[:2] == (3, 4)
    assert shards.keys(read["rows"].tolist()) == read["key"]
    for name in ("positives", "unconditional"):
        rows = read[f"{name}_rows"].flatten().tolist()
        stored = torch.stack([torch.tensor(shards.read(row, ("latents",))["latents"]) for row in rows])
        assert torch.equal(stored.to(read[name]), read[name].flatten(0, 1)), "a row is not that of its clip"


def test_a_small_class_marks_the_positives_that_it_lacks(shards: Shards) -> None:
    reader = groups(shards, Size(2, 8, 0), classes=5)  # 30 training clips, 6 of a class
    read = reader.read(0, 0, 6)
    assert read["positives"].shape[:2] == (3, 8) and read["present"].sum(1).tolist() == [4, 4, 4]
    assert bool(read["present"][:, 0].all())


def test_classes_that_fill_no_unit_are_trained_together_as_unknown(shards: Shards) -> None:
    reader = groups(shards, classes=20)  # 1 or 2 of a class
    drawn = [unit for step in range(10) for unit in reader.units(step)]
    assert {unit.pseudo_class for unit in drawn} == {UNKNOWN}
    assert len({row for unit in drawn for row in unit.clips}) > 20


def test_balance_draws_every_class_equally_often(shards: Shards) -> None:
    known = {key: 0 if number < 30 else 1 for number, key in enumerate(shards.index["key"])}
    for balance, low, high in ((0.0, 0.0, 0.45), (1.0, 0.4, 0.6)):
        reader = Groups(shards, "train", ("latents",), 6, 0, known, Size(1, 1, 0), balance)
        share = np.mean([unit.pseudo_class for step in range(60) for unit in reader.units(step)])
        assert low <= share <= high


def test_what_cannot_be_filled_is_told(shards: Shards, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"do not fill a problem of 31 clips of a class.*lower drift\.group"):
        groups(shards, Size(31, 1, 0))
    with pytest.raises(ContractError, match="40 unconditional clips"):
        groups(shards, Size(1, 1, 40))
    with pytest.raises(ContractError, match="30 samples have no pseudo_class, first clip-000"):
        Groups(shards, "train", ("latents",), 6, 0, {}, Size(1, 1, 0))
