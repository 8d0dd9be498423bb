"""What generators read: classes in balance, prompts' lengths, clips of several shapes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipelines.generation import rectified_flow
from pipelines.generation.classes import read_classes
from pipelines.generation.latents import Latents, token_counter
from pipelines.stage import StageError
from pipelines.training.generator import Generator
from tests.generation import toy
from tests.generation.toy import (
    CHANNELS,
    CLASSES,
    FRAMES,
    SIDE,
    SMALL,
    anchored,
    rectified,
    write_classes,
    write_latents,
)


def write_two_shapes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Latents of which every third has a frame less than the others, as clips of 5 frames have."""
    whole = toy.clip
    monkeypatch.setattr(toy, "clip", lambda number: whole(number)[:, : FRAMES - (number % 3 == 0)])
    write_latents(folder)
    index = pd.read_parquet(folder / "index.parquet")
    short = np.arange(len(index)) % 3 == 0
    index.assign(num_frames=np.where(short, 5, 9), height=8 * SIDE, width=8 * SIDE).to_parquet(folder / "index.parquet")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["fields"]["latents"]["shape"] = [CHANNELS, None, SIDE, SIDE]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_class_balance_evens_out_what_the_data_has_unevenly(tmp_path: Path) -> None:
    folder = write_latents(tmp_path / "latents")
    classes = {f"clip-{number:03d}": int(number % 8 == 0) for number in range(16)}
    seen = {}
    for share in (0.0, 1.0):
        params = anchored(class_balance=share)
        batches = Latents(folder, classes).batches(("latents", "pseudo_class"), params.training, params.class_balance)
        drawn = [batches.read(step, 0, params.training.batch_size)["pseudo_class"] for step in range(8)]
        seen[share] = Counter(torch.cat(drawn).tolist())
    assert seen == {0.0: {0: 40, 1: 8}, 1.0: {0: 24, 1: 24}}


def test_prompt_lengths_come_from_the_index_where_it_has_them(tmp_path: Path) -> None:
    folder = write_latents(tmp_path / "latents")
    data, size = Latents(folder), rectified().denoiser
    data.require(("latents",), "test", size)
    data.shards.index["prompt_tokens"] = np.where(np.arange(16) == 5, 9, 1)
    with pytest.raises(StageError, match=r"prompt of clip-005 has 9 tokens, denoiser\.text_length is 4; raise it to 9"):
        data.require(("latents",), "test", size)
    with pytest.raises(StageError, match=r"is 4, one of them for the class; raise it to 10 or more"):
        data.require(("latents", "pseudo_class"), "test", size)


@pytest.mark.costly
def test_clips_of_two_shapes_train_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_two_shapes(tmp_path / "latents", monkeypatch)
    data = Latents(folder)
    assert data.shapes == {(CHANNELS, 3, SIDE, SIDE): 10, (CHANNELS, 2, SIDE, SIDE): 6}
    batches = data.batches(("latents",), rectified().training)
    shapes = [tuple(batches.read(step, 0, 6)["latents"].shape[1:]) for step in range(8)]
    assert set(shapes) == set(data.shapes)
    count = token_counter((1, 2, 2))
    assert [count(torch.zeros(1, *shape)) for shape in data.shapes] == [12, 8]
    places = {name: tmp_path / name for name in ("out", "metrics", "plots")}
    rectified_flow.train(rectified(steps=3), folder, **places)
    assert "latents of 2 shapes (10 of [4, 3, 4, 4], 6 of [4, 2, 4, 4])" in capsys.readouterr().out
    assert Generator.load(places["out"]).shape == (CHANNELS, 3, SIDE, SIDE)
    with pytest.raises(StageError, match=r"axis T of the latents has 3, denoiser\.patch cuts it by 2"):
        data.require(("latents",), "test", rectified(denoiser={**SMALL["denoiser"], "patch": [2, 2, 2]}).denoiser)


def test_a_reader_of_one_shape_says_what_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Latents(write_two_shapes(tmp_path / "latents", monkeypatch)).shards
    shards.manifest.require_one_shape("prompt", "latent_mae")
    with pytest.raises(StageError, match=r"latents differ in shape .*, and latent_mae takes one\. Give raw_video one"):
        shards.manifest.require_one_shape("latents", "latent_mae")
    with pytest.raises(StageError, match=r"have different shapes, and this stage compares clips of one"):
        shards.load([0, 1], "latents")


def test_held_out_clips_are_told_the_class_of_their_prompt_and_not_their_own(tmp_path):
    """Their own class is computed from the very clip that is to be made."""
    latents = write_latents(tmp_path / "latents")
    folder = write_classes(tmp_path / "classes", latents)
    table = pd.read_parquet(folder / "assignments.parquet")
    own = np.where(np.arange(16) % 4 == 3, (table["pseudo_class"] + 1) % CLASSES, table["pseudo_class"])
    table.assign(pseudo_class=own).to_parquet(folder / "assignments.parquet")
    classes, _ = read_classes(folder, latents)
    told = Latents(latents, classes).held_out(4)["pseudo_class"].tolist()
    assert told == [number % CLASSES for number in (3, 7, 11, 15)], "what training clips of that prompt have"
