"""The reader of actions that a checkpoint keeps for those that go on from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.data.contract import ACTIONS
from pipelines.data.shards import Shards
from pipelines.generation.world_model import reader
from pipelines.generation.world_model.reader import FILE, ActionReader, Kept, trained_reader
from tests.generation.world_model.toy import write_autoencoder, write_latents

WORDS = {"factor_shape": ["circle", "cross"]}


def new(seed: int, words: dict[str, list[str]] = WORDS) -> ActionReader:
    torch.manual_seed(seed)
    return ActionReader(3, ACTIONS, 4, words)


def test_a_kept_reader_is_taken_for_the_same_latents_updates_and_words_only(tmp_path: Path) -> None:
    told, other = new(0), new(1)
    kept = Kept("abc", tmp_path)
    assert not kept.take(other, 7), "the start has none"
    kept.save(told, 7, tmp_path)
    written = (tmp_path / FILE).read_bytes()
    for absent in (Kept("abc", None), Kept("abd", tmp_path)):
        assert not absent.take(other, 7)
    assert not kept.take(other, 8) and not kept.take(new(1, {"factor_shape": ["a", "b", "c"]}), 7)
    assert not torch.equal(other.actions.weight, told.actions.weight)
    assert kept.take(other, 7)
    assert all(torch.equal(one, same) for one, same in zip(other.parameters(), told.parameters(), strict=True))
    kept.save(other, 7, tmp_path)
    assert (tmp_path / FILE).read_bytes() == written


def test_what_goes_on_from_a_checkpoint_is_judged_by_its_reader_without_training_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = Shards(write_latents(tmp_path / "latents", write_autoencoder(tmp_path / "autoencoder")))
    kept, device = Kept("abc", tmp_path), torch.device("cpu")
    first, _ = trained_reader(shards, 2, device, kept)
    kept.save(first, 2, tmp_path)
    trained = []
    monkeypatch.setattr(reader, "_train", lambda *arguments: trained.append(arguments[2]))
    again, _ = trained_reader(shards, 2, device, kept)
    trained_reader(shards, 3, device, kept)
    assert trained == [3], "of other updates it is trained anew"
    assert all(torch.equal(one, same) for one, same in zip(again.parameters(), first.parameters(), strict=True))
    assert not any(one.requires_grad for one in again.parameters()) and not again.training
