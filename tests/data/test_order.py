"""The order of samples: a function of (seed, step), fair to buckets and to classes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.batches import Batches, by_form
from pipelines.data.contract import ContractError
from pipelines.data.order import Order, balanced
from pipelines.data.shards import Shards
from tests.data.sample_shards import write_latents

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=4)


def buckets(sizes: list[int]) -> list[np.ndarray]:
    """Rows 0, 1, 2 … dealt to buckets of these sizes."""
    ends = np.cumsum(sizes)
    return [np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def test_one_bucket_is_read_as_it_always_was() -> None:
    rows, order = np.arange(100, 123), Order([np.arange(100, 123)], batch_size=7, seed=3)
    stream = np.concatenate([rows[np.random.default_rng([3, epoch]).permutation(23)] for epoch in range(3)])
    assert np.array_equal(np.concatenate([order.batch(step) for step in range(9)]), stream[:63])


@given(sizes=SIZES, batch_size=st.integers(1, 20), seed=st.integers(0, 3), step=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_a_batch_knows_no_history_and_comes_from_one_bucket(
    sizes: list[int], batch_size: int, seed: int, step: int
) -> None:
    used, fresh = (Order(buckets(sizes), batch_size, seed) for _ in range(2))
    for earlier in range(step):
        used.batch(earlier)
    batch = fresh.batch(step)
    assert np.array_equal(batch, used.batch(step)) and len(batch) == batch_size
    assert sum(bool(np.isin(batch, rows).any()) for rows in fresh.buckets) == 1


@given(sizes=SIZES, batch_size=st.integers(1, 12), seed=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_every_sample_of_every_bucket_comes_equally_often(sizes: list[int], batch_size: int, seed: int) -> None:
    order = Order(buckets(sizes), batch_size, seed)
    rounds = 3
    steps = sum(rounds * batch_size * size // batch_size for size in sizes)  # whole epochs of every bucket
    seen = Counter(row for step in range(steps) for row in order.batch(step).tolist())
    assert set(seen.values()) == {rounds * batch_size} and len(seen) == sum(sizes)


def test_batches_of_buckets_are_mixed_and_differ_by_seed() -> None:
    turns = {seed: [Order(buckets([40, 20]), 4, seed).turn(step)[0] for step in range(15)] for seed in range(3)}
    assert all(Counter(found) == {0: 10, 1: 5} for found in turns.values())
    assert len({tuple(found) for found in turns.values()}) == 3
    assert all(found != sorted(found) for found in turns.values())


# ---- classes ------------------------------------------------------------------------------------------------------


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=6), share=st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_an_epoch_holds_classes_in_the_wanted_proportion(counts: list[int], share: float) -> None:
    classes = np.repeat(np.arange(len(counts)), counts)
    epoch = balanced(classes, share)(np.random.default_rng(0), np.arange(len(classes)))
    assert len(epoch) == len(classes)
    wanted = np.array(counts, dtype=float) ** (1 - share)
    wanted *= len(classes) / wanted.sum()
    found = np.bincount(classes[epoch], minlength=len(counts))
    assert (np.abs(found - wanted) < 1).all()
    times = np.bincount(epoch, minlength=len(classes))
    assert (np.abs(times - (wanted / counts)[classes]) < 1).all()


def test_balanced_classes_stand_in_every_batch_in_equal_parts() -> None:
    classes = np.repeat(np.arange(4), [70, 20, 20, 10])
    drawn = {share: Order([np.arange(120)], 12, 0, balanced(classes, share)) for share in (0.0, 1.0)}
    held = {
        share: np.array([np.bincount(classes[order.batch(step)], minlength=4) for step in range(10)])
        for share, order in drawn.items()
    }
    assert held[1.0].sum(0).tolist() == [30, 30, 30, 30] and held[0.0].sum(0).tolist() == [70, 20, 20, 10]
    assert np.abs(held[1.0] - 3).max() <= 1
    assert not np.array_equal(drawn[1.0].batch(0), drawn[1.0].batch(10))


# ---- of a folder of latents -----------------------------------------------------------------------------------------


def with_forms(folder: Path) -> Path:
    """Latents of two shapes: samples with an even number come from clips of 9 x 64 x 32 pixels."""
    path = write_latents(folder, num_samples=16) / "index.parquet"
    index = Shards(folder).index
    even = np.arange(16) % 2 == 0
    index.assign(num_frames=np.where(even, 9, 5), height=np.where(even, 64, 24), width=32).to_parquet(path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["fields"]["latents"]["shape"] = [2, None, None, None]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_samples_of_different_shapes_never_share_a_batch(tmp_path: Path) -> None:
    shards = Shards(with_forms(tmp_path / "latents"))
    batches = Batches(shards, "train", ("prompt",), batch_size=2, seed=0)
    forms = {key: form for form, rows in by_form(shards, np.arange(16)).items() for key in shards.keys(rows)}
    assert set(forms.values()) == {(5, 24, 32), (9, 64, 32)}
    found = [{forms[key] for key in batches.read(step, 0, 2)["key"]} for step in range(12)]
    assert all(len(one) == 1 for one in found) and set().union(*found) == set(forms.values())


def test_shapes_that_nothing_explains_are_an_error(tmp_path: Path) -> None:
    folder = with_forms(tmp_path / "latents")
    Shards(folder).index.drop(columns=["height"]).to_parquet(folder / "index.parquet")
    with pytest.raises(ContractError, match="no columns num_frames, height, width; run latent_shards again"):
        Batches(Shards(folder), "train", ("prompt",), batch_size=2, seed=0)
