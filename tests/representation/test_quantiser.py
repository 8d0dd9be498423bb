"""Codebooks: k-means and VQ agree with their definitions, leave no class empty, and do not depend on processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from pipelines.representation import kmeans, quantiser
from pipelines.representation.bounds import Assignment
from pipelines.representation.params import Kmeans, Vq
from pipelines.representation.passes import ENTRIES, Samples, nearest, without_empty
from pipelines.representation.ranks import Ranks
from pipelines.stage import StageError
from pipelines.starting import free_port

ALONE = Ranks.alone()
LLOYD = Kmeans(kind="kmeans", restarts=1, max_iterations=100)
AVERAGES = Vq(kind="vq", steps=80, batch_size=128, decay=0.9, revive_below=0.1)


def clouds(classes: int = 8, each: int = 50, width: int = 6) -> np.ndarray:
    rng = np.random.default_rng(3)
    centres = rng.normal(0, 6, (classes, width))
    return (np.repeat(centres, each, axis=0) + rng.normal(size=(classes * each, width))).astype(np.float32)


def everything(h: np.ndarray) -> Samples:
    return Samples(h, np.arange(len(h)))


def test_lloyd_is_scikit_learns_from_the_same_start() -> None:
    h = clouds()
    centres = kmeans.start(everything(h), 8, 5, ALONE)
    ours = kmeans.lloyd(everything(h), centres, 100, 0.0, ALONE)
    peer = KMeans(8, init=centres, n_init=1, tol=0.0, max_iter=100).fit(h)
    assert ours.inertia == pytest.approx(peer.inertia_ / len(h), rel=1e-5)
    np.testing.assert_allclose(ours.centroids, peer.cluster_centers_, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [1, 2, 7, 40])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_following_the_centres_gives_the_labels_and_sums_of_a_full_pass(classes: int, scale: float) -> None:
    h = np.concatenate([clouds(width=5), np.zeros((20, 5), np.float32)]) * np.float32(scale)
    samples, rng = everything(h), np.random.default_rng(classes)
    centres = torch.from_numpy(h[rng.choice(len(h), classes, replace=False)].copy())
    followed = Assignment(samples, classes, ALONE)
    for step in range(12):
        followed.follow(centres)
        squared = nearest(torch.from_numpy(h), centres)[1]
        own = (torch.from_numpy(h) - centres[followed.labels]).square().sum(1)
        assert followed.error() == pytest.approx(
            float(own.double().sum()), rel=1e-5, abs=1e-9 * float(np.square(h).sum())
        )
        assert (own <= squared + 1e-5 * scale**2 * 100).all(), "none is farther than its nearest"
        whole = torch.zeros_like(followed.sums).index_add_(0, followed.labels, torch.from_numpy(h).double())
        torch.testing.assert_close(followed.sums, whole, rtol=1e-9, atol=1e-9 * scale)
        assert torch.equal(followed.counts, torch.bincount(followed.labels, minlength=classes).double())
        if step % 3 == 2:  # one centre jumps, as when an empty class is filled
            centres = centres.clone()
            centres[int(rng.integers(classes))] = torch.from_numpy(h[int(rng.integers(len(h)))])
        else:
            centres = torch.where(
                followed.counts[:, None] > 0, followed.sums / followed.counts[:, None].clamp_min(1), centres.double()
            ).float()


def test_a_settled_codebook_looks_at_few_samples_again(monkeypatch: pytest.MonkeyPatch) -> None:
    h = clouds()
    followed = Assignment(everything(h), 8, ALONE)
    seen: list[int] = []
    look = Assignment._look

    def counting(self: Assignment, places: torch.Tensor, centres: torch.Tensor) -> int:
        seen.append(len(places))
        return look(self, places, centres)

    monkeypatch.setattr(Assignment, "_look", counting)
    centres = torch.from_numpy(kmeans.lloyd(everything(h), h[::50].copy(), 100, 0.0, ALONE).centroids)
    seen.clear()
    followed.follow(centres)
    followed.follow(centres + 1e-3)
    assert seen[0] == len(h) and sum(seen[1:]) < 0.1 * len(h)


def test_restarts_never_make_it_worse() -> None:
    h = everything(clouds(each=8))
    inertia = [quantiser.fit(h, 12, LLOYD.model_copy(update={"restarts": n}), 0, ALONE).inertia for n in (1, 3, 9)]
    assert inertia == sorted(inertia, reverse=True)


@pytest.mark.parametrize("how", [LLOYD, AVERAGES], ids=["kmeans", "vq"])
def test_a_quantiser_is_seeded_fills_every_class_and_finds_the_clouds(how: Kmeans | Vq) -> None:
    h = clouds()
    first, again = (quantiser.fit(everything(h), 8, how, 1, ALONE) for _ in range(2))
    np.testing.assert_array_equal(first.centroids, again.centroids)
    labels = quantiser.assign(first, h).labels
    assert len(np.unique(labels)) == 8
    assert first.inertia < 3 * 6  # the clouds have variance 1 in each of 6 dimensions


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.integers(2, 9))
def test_no_class_stays_empty_whatever_the_start(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    h = rng.integers(0, 3, (30, 3)).astype(np.float32)  # many doubles
    centres = np.repeat(rng.normal(size=(1, 3)), classes, axis=0).astype(np.float32)  # all classes but one are empty
    _, found = without_empty(everything(h), centres, ALONE)
    assert (found.counts > 0).all()
    assert found.counts.sum() == 30


def test_doubles_whose_mean_is_rounded_are_no_further_samples() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 48)).astype(np.float32)
    with pytest.raises(StageError, match="have only 30 different embeddings"):
        quantiser.fit(everything(np.repeat(rows, 7, axis=0)), 40, LLOYD, 0, ALONE)


def test_unused_codes_are_revived() -> None:
    h = clouds(classes=4)
    rare = Vq(kind="vq", steps=120, batch_size=64, decay=0.8, revive_below=0.5)
    counts = np.bincount(quantiser.assign(quantiser.fit(everything(h), 16, rare, 0, ALONE), h).labels, minlength=16)
    assert counts.min() > 0.1 * counts.mean()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_distance_and_margin_are_those_of_all_centres(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    h, centres = rng.normal(size=(12, 3)).astype(np.float32), rng.normal(size=(classes, 3)).astype(np.float32)
    found = quantiser.assign(quantiser.Codebook(centres, 0.0), h)
    distances = np.sort(np.linalg.norm(h[:, None].astype(float) - centres, axis=2), axis=1)
    np.testing.assert_allclose(found.distance, distances[:, 0], atol=1e-5)
    np.testing.assert_allclose(found.margin, distances[:, min(1, classes - 1)] - distances[:, 0], atol=1e-5)


def test_the_nearest_centre_is_found_in_pieces() -> None:
    rng = np.random.default_rng(4)
    values, centres = (rng.normal(size=(count, 3)).astype(np.float32) for count in (700, 1024))  # more than one piece
    labels, squared = nearest(torch.from_numpy(values), torch.from_numpy(centres))
    assert len(values) * len(centres) > ENTRIES
    exact = ((values[:, None].astype(float) - centres) ** 2).sum(2)
    np.testing.assert_array_equal(labels, exact.argmin(1))
    np.testing.assert_allclose(squared, exact.min(1), atol=1e-5)


def test_a_part_of_the_rows_is_fitted_from_a_memory_map(tmp_path: Path) -> None:
    h = clouds()
    stored = ALONE.matrix(tmp_path / "h.npy", h.shape)
    stored[:] = h
    rows = np.arange(0, len(h), 2)
    mapped = quantiser.fit(Samples(stored, rows), 8, LLOYD, 0, ALONE)
    np.testing.assert_allclose(mapped.centroids, quantiser.fit(everything(h[rows]), 8, LLOYD, 0, ALONE).centroids)


def test_every_row_is_read_by_exactly_one_process() -> None:
    for total in (0, 1, 5, 12):
        parts = [Ranks(rank, 3, ALONE.device).part(total) for rank in range(3)]
        assert [row for part in parts for row in part] == list(range(total))


SHARED = """
import json, sys
import numpy as np
from pipelines.processes import leave_group
from pipelines.representation import quantiser
from pipelines.representation.ranks import Ranks
from pipelines.stage import StageError
from tests.representation.test_quantiser import AVERAGES, LLOYD, clouds, everything
ranks, found = Ranks.here(), {}
for how in (LLOYD, AVERAGES):
    made = quantiser.fit(everything(clouds()), 12, how, 2, ranks)
    found[how.kind] = made.centroids.tolist()
if ranks.is_main:
    assert ranks.count == 2
    open(sys.argv[1], "w").write(json.dumps(found))
leave_group()  # as a stage ends
"""


@pytest.mark.slow
def test_two_processes_make_the_codebook_that_one_makes(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text(SHARED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "ACCELERATE_USE_CPU": "true"}
    place = ["--nnodes=1", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    script = [str(tmp_path / "shared.py"), str(tmp_path / "found.json")]
    command = [sys.executable, "-m", "torch.distributed.run", *place, *script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    for how in (LLOYD, AVERAGES):
        one = quantiser.fit(everything(clouds()), 12, how, 2, ALONE)
        np.testing.assert_allclose(found[how.kind], one.centroids, rtol=1e-4, atol=1e-4)
