"""Splits: files whole, no footage in two of them, combinations that training never sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.catalog import read_decisions
from pipelines.data.video import write_mp4
from pipelines.footage.factors import BLOCK, FACTORS, draw, shows
from pipelines.footage.params import RawVideoParams, Splits
from pipelines.footage.splits import split_by_hash
from pipelines.stage import StageError
from tests.footage.footage import CLIP, CUTTING, SPLITS, folder, run, video

THREE = {"train", "validation", "test"}
PAIRS = ({"color": "red", "direction": "left"}, {"color": "blue", "direction": "up"})


def splits(validation: float, test: float) -> Splits:
    return Splits(validation=validation, test=test)


def scenery(path: Path, seed: int, side: tuple[int, int] = (48, 64), crf: int = 10, num_frames: int = 15) -> None:
    """A video of slowly changing blobs, told by the seed; in any size and quality it is the same footage."""
    coarse = np.random.default_rng(seed).integers(20, 230, (num_frames // 5, 6, 8, 3)).repeat(5, 0)
    frames = coarse.repeat(side[0] // 6, 1).repeat(side[1] // 8, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, frames.astype(np.uint8), 8.0, {}, crf)
    path.with_suffix(".txt").write_text("a thing")


def of_file(catalog: pd.DataFrame) -> dict[str, set[str]]:
    """The splits of each file."""
    return {str(name): set(part["split"]) for name, part in catalog.groupby("source")}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.05, 0.45), st.floats(0.05, 0.45))
def test_hashes_fill_the_splits_by_their_shares_and_newcomers_move_nobody(seed: int, first: float, last: float) -> None:
    hashes = [f"{value:08x}" for value in np.random.default_rng(seed).integers(0, 2**32, 2000)]
    found, before = split_by_hash(hashes, splits(first, last)), split_by_hash(hashes[:1000], splits(first, last))
    assert before.items() <= found.items()
    shares = pd.Series(found).value_counts(normalize=True)
    assert shares["validation"] == pytest.approx(first, abs=0.06) and shares["test"] == pytest.approx(last, abs=0.06)


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 2**32 - 1), min_size=3, max_size=6))
def test_three_hashes_are_enough_for_three_splits(values: set[int]) -> None:
    assert set(split_by_hash([f"{value:08x}" for value in values], splits(0.1, 0.1)).values()) == THREE


@pytest.mark.costly
def test_a_file_is_in_one_split(tmp_path: Path) -> None:
    for number in range(8):
        scenery(tmp_path / f"in/{number}.mp4", number)
    catalog, metrics = run(folder(tmp_path / "in"), tmp_path)
    assert all(len(found) == 1 for found in of_file(catalog).values()) and set(catalog["split"]) == THREE
    assert sum(metrics["splits"].values()) == metrics["num_clips"] == 24
    assert metrics["clips_refused_by"]["split"] == 0


@pytest.mark.costly
def test_a_copy_in_another_size_and_quality_is_never_in_a_second_split(tmp_path: Path) -> None:
    """Half of the videos stand there twice; whichever split their hashes name, their footage is in one alone."""
    for number in range(16):
        scenery(tmp_path / f"in/{number}.mp4", number)
        if number % 2:
            scenery(tmp_path / f"in/copy-{number}.mp4", number, (96, 128), crf=30)
    catalog, metrics = run(folder(tmp_path / "in"), tmp_path)
    found = of_file(catalog)
    for number in range(1, 16, 2):
        one, other = found.get(f"{number}.mp4", set()), found.get(f"copy-{number}.mp4", set())
        assert len(one | other) == 1
    decisions = read_decisions(tmp_path / "clips")
    gone = decisions[decisions["split_decision"] == "refused"]
    assert len(gone) == metrics["clips_refused_by"]["split"] > 0 and not gone["kept"].any()
    of_key = dict(zip(catalog["key"], catalog["source"], strict=True))
    for row in gone.to_dict("records"):
        assert of_key[row["duplicate_of"]].removeprefix("copy-") == row["source"].removeprefix("copy-")
    assert {path.stem for path in (tmp_path / "clips/clips").iterdir()} == set(catalog["key"])


def test_a_split_that_shows_nothing_of_its_own_is_told(tmp_path: Path) -> None:
    for number, (side, crf) in enumerate([((48, 64), 10), ((96, 128), 20), ((48, 64), 30)]):
        scenery(tmp_path / f"in/{number}.mp4", 0, side, crf)
    with pytest.raises(
        StageError, match=r"every clip of validation shows what another split shows \(\d.mp4 at 0 s like"
    ):
        run(folder(tmp_path / "in"), tmp_path)


@pytest.mark.costly
def test_a_single_file_is_split_by_time_without_shared_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenery(tmp_path / "in/a.mp4", 0, num_frames=60)
    catalog, metrics = run(folder(tmp_path / "in", cutting={**CUTTING, "stride": 0.5}), tmp_path)
    assert "stretches of the same footage" in capsys.readouterr().out
    assert catalog.sort_values("start_seconds")["split"].drop_duplicates().tolist() == ["train", "validation", "test"]
    begin, end = catalog.groupby("split")["start_seconds"].min(), catalog.groupby("split")["end_seconds"].max()
    assert end["train"] <= begin["validation"] + 1e-9 and end["validation"] <= begin["test"] + 1e-9
    assert 0 < metrics["clips_refused_by"]["split"] == metrics["clips_cut"] - len(catalog)


def test_too_few_clips_for_three_splits_are_told(tmp_path: Path) -> None:
    video(tmp_path / "in/a.mp4")
    with pytest.raises(StageError, match=r"folder: gave 2 clips, none of them for validation; each split needs one"):
        run(folder(tmp_path / "in"), tmp_path)


def composed(num_clips: int, **block: Any) -> RawVideoParams:
    source = {"rendered": {"seed": 0, "test_seed": 1, "num_clips": num_clips, "steered_share": 0.0, **block}}
    return RawVideoParams.model_validate({"clip": CLIP, "splits": SPLITS, "source": source})


@pytest.mark.costly
def test_a_held_out_combination_is_shown_by_the_split_composition_and_by_no_other(tmp_path: Path) -> None:
    catalog, metrics = run(composed(48, composition={"num_clips": 8, "combinations": list(PAIRS)}), tmp_path)
    held_out = np.zeros(len(catalog), bool)
    for pair in PAIRS:
        held_out |= np.all([catalog[f"factor_{name}"] == value for name, value in pair.items()], axis=0)
    assert (held_out == (catalog["split"] == "composition")).all() and held_out.sum() == 8
    assert metrics["splits"] == {"train": 24, "validation": 12, "test": 12, "composition": 8}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_whatever_is_held_out_every_block_stays_balanced(data: st.DataObject) -> None:
    many = st.sampled_from([name for name, values in FACTORS.items() if len(values) > 2])
    others = st.lists(st.sampled_from(sorted(FACTORS)), min_size=1, max_size=2, unique=True)
    names = sorted({one := data.draw(many), *data.draw(others.filter(lambda drawn: drawn != [one]))})
    never = (tuple((name, data.draw(st.sampled_from(FACTORS[name]))) for name in names),)
    for block in range(3):
        drawn = [draw((5,), block * BLOCK + place, never) for place in range(BLOCK)]
        assert not any(shows(one, never[0]) for one in drawn)
        for name, values in FACTORS.items():
            counts = [sum(getattr(one, name) == value for one in drawn) for value in values]
            assert counts == [BLOCK // len(values)] * len(values)


@pytest.mark.costly
def test_no_scene_of_one_series_is_in_another(tmp_path: Path) -> None:
    catalog, _ = run(composed(96, composition={"num_clips": 8, "combinations": list(PAIRS)}), tmp_path)
    assert catalog["key"].is_unique
    factors = [name for name in catalog if str(name).startswith("factor_")]
    seen = catalog[catalog["split"] != "composition"]
    rows = seen.groupby(factors)["split"].nunique()
    assert (rows == 1).all()
