"""Numbers of encoders and classes whose answer is worked out by hand, or by another library on the same input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import entropy
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from pipelines.representation import occupancy, spectrum
from pipelines.representation.agreement import probe
from pipelines.representation.encoder_choices import principal
from pipelines.representation.held_out import consistency, half_labels, noise_like
from pipelines.representation.kernel import kernel_statistics, pooled
from pipelines.representation.latent_mae import copied_mean, masked_error
from pipelines.representation.passes import Codebook
from pipelines.representation.retrieval import chance_consistency
from pipelines.representation.separation import class_sums, distances
from pipelines.representation.spreads import LEFT_OUT, Labellings, over_runs, with_spreads


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_the_masked_error_is_of_hidden_places_over_all_channels() -> None:
    """Two channels, places 0 (seen) and 1, 2 (hidden): squares 1, 4 and 9, 0 over four numbers."""
    latents = torch.zeros(1, 2, 3, 1, 1)
    predicted = torch.tensor([[9.0, 1, 2], [9, 3, 0]]).reshape(1, 2, 3, 1, 1)
    hidden = torch.tensor([False, True, True]).reshape(1, 1, 3, 1, 1)
    assert masked_error(latents, predicted, hidden).tolist() == [(1 + 4 + 9 + 0) / 4]


def test_the_baseline_copies_the_mean_of_what_is_seen_per_channel() -> None:
    latents = torch.tensor([[1.0, 3, 100], [5, 7, -100]]).reshape(1, 2, 3, 1, 1)
    hidden = torch.tensor([False, False, True]).reshape(1, 1, 3, 1, 1)
    assert copied_mean(latents, hidden).flatten().tolist() == [2.0, 6.0]


def test_standardised_features_and_principal_scores_are_scikit_learns() -> None:
    """Scores up to their sign; whitened, they are by 1 / N where scikit-learn counts N - 1."""
    values = normal(40, 5) * np.arange(1, 6) + 3
    np.testing.assert_allclose(spectrum.standardised(values), StandardScaler().fit_transform(values), atol=1e-12)
    rows = np.arange(30)
    theirs = PCA(3).fit(values[rows])
    ours = principal(values, 3, whiten=False, fitted_on=rows)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs.transform(values)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(principal(values, 3, True, rows)[rows].std(0), 1.0, rtol=1e-5)
    np.testing.assert_allclose(spectrum.explained(values[rows])[:3], theirs.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(spectrum.singular_values(values[rows])[:3], theirs.singular_values_, rtol=1e-9)


def test_rankme_and_participation_of_variances_4_and_1() -> None:
    """Singular values 2 : 1 and variances 4 : 1. RankMe adds 1e-7 to each share, which scipy's entropy does not."""
    values = np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]])
    assert spectrum.rankme(values) == pytest.approx(float(np.exp(entropy([2, 1]))), rel=1e-5)
    assert spectrum.participation(values) == pytest.approx((4 + 1) ** 2 / (16 + 1))


def test_a_ridge_probe_is_scikit_learns_on_features_standardised_over_all() -> None:
    features, factor = normal(60, 4), np.arange(60) % 3
    features[:, 0] += factor
    train = np.arange(60) < 40
    values = StandardScaler().fit_transform(features)
    theirs = RidgeClassifier(alpha=0.5 * 40).fit(values[train], factor[train]).score(values[~train], factor[~train])
    found = probe(features, {"f": factor}, train, 0.5)["f"]
    assert found["accuracy"] == pytest.approx(theirs)
    assert found["accuracy_std"] == pytest.approx(np.sqrt(theirs * (1 - theirs) / 20))
    assert found["accuracy_chance"] == pytest.approx(np.mean(factor[40:] == 0)), "train has one 0 more than others"


def test_occupancy_entropy_is_scipys_and_gini_of_a_hand_case() -> None:
    """Counts 0, 1, 3: mean absolute difference of all pairs over twice the mean, (2 (1 + 3 + 2) / 9) / (2 * 4 / 3)."""
    counts = np.array([0, 1, 3])
    found = occupancy.occupancy(counts, near_empty=2)
    assert found["entropy_nats"] == pytest.approx(entropy(counts))
    assert found["entropy_ratio"] == pytest.approx(np.exp(entropy(counts)) / 3)
    assert (found["near_empty_share"], found["singletons_share"]) == pytest.approx((2 / 3, 1 / 3))
    assert occupancy.gini(counts) == pytest.approx((2 * (1 + 3 + 2) / 9) / (2 * 4 / 3))
    assert occupancy.lorenz(counts)[1].tolist() == [0, 0, 1 / 4, 1]
    assert occupancy.counts_of(np.array([1, 2, 2, 2]), 3).tolist() == [0, 1, 3]


def test_chance_consistency_of_one_and_of_two_sets() -> None:
    assert chance_consistency(np.array([0, 0, 1, 2])) == pytest.approx(1 / 4 + 1 / 16 + 1 / 16)
    assert chance_consistency(np.array([0, 1]), np.array([0, 0, 0, 2])) == pytest.approx(1 / 2 * 3 / 4)


def test_distances_and_their_sums_over_classes_are_scipys() -> None:
    from scipy import sparse

    h = normal(12, 3) + 100  # far from the origin, where |x|^2 + |y|^2 - 2 x y loses digits
    np.testing.assert_allclose(distances(h, h[:4]), cdist(h, h[:4]), rtol=1e-6, atol=1e-5)
    labels = np.arange(12) % 2
    member = sparse.csr_matrix((np.ones(12), (labels, np.arange(12))), shape=(2, 12))
    [(rows, sums)] = class_sums(h, np.arange(4), member)
    expected = [cdist(h[labels == one], h[:4]).sum(0) for one in (0, 1)]
    assert rows.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(sums, expected, rtol=1e-6)


def test_quantiles_of_the_kernel_are_numpys_over_all_classes() -> None:
    """Two classes of one query each; positives first."""
    sides = [(np.array([[0.5, 1.0, 2.0]]), 1), (np.array([[0.1, 0.2, 3.0]]), 2)]
    near, far = [0.5, 0.1, 0.2], [1.0, 2.0, 3.0]
    assert [sorted(part) for part in pooled(sides)] == [sorted(near), far]
    found = kernel_statistics(sides, (0.5,))
    assert found["distance/positive_p50"] == pytest.approx(np.percentile(near, 50))
    assert found["distance/negative_p95"] == pytest.approx(np.percentile(far, 95))
    assert found["tau_0.5/logit_p05"] == pytest.approx(np.percentile(-np.array(near + far) / 0.5, 5))


def test_a_null_space_has_the_mean_and_covariance_of_what_it_stands_for() -> None:
    h = (normal(40_000, 2) @ np.array([[2.0, 0.5], [0.0, 1.0]]) + 7).astype(np.float32)
    rows = np.arange(20_000)
    noise = noise_like(h, rows, 1)
    assert noise.shape == (20_000, 2) and not np.allclose(noise, h[rows])
    np.testing.assert_allclose(noise.mean(0), h[rows].mean(0), atol=0.06)
    np.testing.assert_allclose(np.cov(noise.T), np.cov(h[rows].T), atol=0.15)


def test_half_of_an_embedding_names_the_nearest_centre_in_its_columns() -> None:
    codebook = Codebook(np.array([[0.0, 9], [10, 0]], np.float32), 0.0)
    h = np.array([[1.0, 0], [9, 9]], np.float32)
    assert half_labels(codebook, h, slice(0, 1)).tolist() == [0, 1]
    assert half_labels(codebook, h, slice(1, 2)).tolist() == [1, 0]


def test_consistency_is_the_share_of_train_neighbours_of_the_querys_class_over_what_any_row_would_give() -> None:
    """Queries 0.1 and 9.9 on a line: neighbours of classes a, a, and b, a; train is a, a, a, b, queries a and b."""
    h = np.array([[0.0], [1.0], [8.0], [10.0], [0.1], [9.9]])
    labels, queries, among = np.array([0, 0, 0, 1, 0, 1]), np.array([4, 5]), np.arange(4)
    found = consistency(h, labels, queries, among, (1, 2), 0)
    assert (found["top1"], found["top2"]) == (1.0, pytest.approx((1 + 0.5) / 2))
    assert found["top2_chance"] == pytest.approx(0.5 * 0.75 + 0.5 * 0.25)
    assert found["top2_std"] == pytest.approx(np.std([1, 0.5], ddof=1) / 2**0.5)
    assert found["top2_gain"] == pytest.approx(0.75 / 0.5)


def test_spreads_and_chance_are_those_of_the_runs() -> None:
    """Counting ones: 3 in the classes; 1, 3 permuted; 2, 2, 5 in subsamples, widened by 2; 4, 6 of other seeds."""

    def ones(count: int) -> np.ndarray:
        return np.array([1] * count + [LEFT_OUT] * (6 - count))

    given = Labellings(ones(3), [ones(1), ones(3)], [ones(2), ones(2), ones(5)], [ones(4), ones(6)], 2.0)
    found = with_spreads("n", lambda labels: {"n": float((labels == 1).sum())}, given)
    expected = {"n": 3.0, "n_chance": 2.0, "n_chance_std": 2**0.5, "n_std": 2 * 3**0.5, "n_seed_std": 2**0.5}
    assert found.values == pytest.approx(expected) and not found.unavailable
    assert over_runs({"n": 3.0}, [{"n": 1.0}, {"n": 3.0}], "_x") == {"n_x": pytest.approx(2**0.5)}
    assert over_runs({"n": 3.0}, [{"n": 1.0}], "_x") == {}
