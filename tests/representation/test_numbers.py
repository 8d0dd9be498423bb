"""Separation, retrieval, occupancy, spectrum, kernel, agreement: hand cases, fixed points, chance."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.spatial.distance import cdist
from sklearn.metrics import (
    adjusted_rand_score,
    davies_bouldin_score,
    normalized_mutual_info_score,
    silhouette_samples,
    silhouette_score,
)

from pipelines.representation import held_out, kernel, quantiser, retrieval, spectrum
from pipelines.representation.agreement import (
    agreements,
    ari_of,
    contingency,
    factor_labels,
    missing_factors,
    nmi,
    nmi_most,
    nmi_of,
    probe,
)
from pipelines.representation.diagnostics_figures import prompt_families
from pipelines.representation.embedding import Embedding
from pipelines.representation.gates import gate, judge
from pipelines.representation.measuring import stability_block
from pipelines.representation.occupancy import counts_of, gini, lorenz, occupancy, occupancy_with_spreads
from pipelines.representation.params import EmbeddingParams, Gates, KernelParams, Kmeans, KnownFactors, Threshold
from pipelines.representation.passes import Codebook, Samples
from pipelines.representation.ranks import Ranks
from pipelines.representation.separation import separations
from pipelines.representation.spreads import LEFT_OUT, Unavailable, gathered, labellings
from tests.representation.toy import PARAMS

RNG = np.random.default_rng(0)
LINE = np.array([[0.0], [1.0], [10.0], [12.0]])
PAIRS = np.array([0, 0, 1, 1])
ALONE = Ranks.alone()


def blobs(classes: int = 4, each: int = 20, apart: float = 8.0) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(classes), each)
    centres = np.random.default_rng(1).normal(0, apart, (classes, 5))
    return centres[labels] + np.random.default_rng(2).normal(size=(len(labels), 5)), labels


def separation(h: np.ndarray, labels: np.ndarray, queries: np.ndarray | None = None) -> dict[str, float]:
    """Numbers of one labelling."""
    (found,) = separations(h, [labels], queries)
    if isinstance(found, Unavailable):
        raise found
    return found


# ---- separation ---------------------------------------------------------------------------------------------------


def test_distances_within_and_between_classes_of_a_hand_case() -> None:
    found = separation(LINE, PAIRS)
    assert (found["intra_mean"], found["inter_mean"]) == pytest.approx((1.5, (10 + 12 + 9 + 11) / 4))


def test_silhouette_and_its_kin_of_a_hand_case() -> None:
    found = separation(LINE, PAIRS)
    outer, inner = (11 - 1) / 11, (10 - 1) / 10
    right = (9.5 - 2) / 9.5, (11.5 - 2) / 11.5
    assert found["silhouette"] == pytest.approx((outer + inner + sum(right)) / 4)
    assert found["davies_bouldin"] == pytest.approx((0.5 + 1.0) / 10.5)
    between, within = 2 * (5.25**2) * 2, 0.5 + 2.0
    assert found["calinski_harabasz"] == pytest.approx(between / (within / 2))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000))
def test_separation_depends_neither_on_names_of_classes_nor_on_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    h, labels = rng.normal(size=(24, 3)), np.arange(24) % 4
    renamed, order = np.array([7, 2, 9, 4])[labels], rng.permutation(24)
    for other in (separation(h, renamed), separation(h[order], labels[order])):
        assert other == pytest.approx(separation(h, labels))


def test_one_class_or_only_singletons_have_no_separation() -> None:
    for labels in (np.zeros(6, int), np.arange(6)):
        with pytest.raises(Unavailable, match="classes among 6 samples"):
            separation(RNG.normal(size=(6, 2)), labels)


def test_separation_is_scikit_learns_to_a_millionth() -> None:
    h, labels = RNG.normal(size=(300, 7)).astype(np.float32) + 50, RNG.integers(0, 9, 300)
    found = separation(h, labels)
    assert found["silhouette"] == pytest.approx(silhouette_score(h, labels), abs=1e-6)
    assert found["davies_bouldin"] == pytest.approx(davies_bouldin_score(h, labels), abs=1e-6)


def test_queries_are_measured_against_all_samples() -> None:
    h, labels = blobs()
    values = silhouette_samples(h, labels)
    rows = np.array([3, 17, 40, 79])
    assert separation(h, labels, rows)["silhouette"] == pytest.approx(values[rows].mean())


def test_a_sample_that_is_left_out_does_not_count() -> None:
    h, labels = blobs()
    kept = np.arange(80) % 3 > 0
    masked = np.where(kept, labels, LEFT_OUT)
    assert separation(h, masked) == pytest.approx(separation(h[kept], labels[kept]))


# ---- chance and spread --------------------------------------------------------------------------------------------


def test_random_labels_are_at_their_own_chance_level() -> None:
    h, labels = RNG.normal(size=(80, 4)), RNG.integers(0, 4, 80)
    given = labellings(labels, 20, 0.8, 0)
    found = gathered("separation", separations(h, given.all()), given).values
    for name in ("intra_inter_ratio", "silhouette"):
        assert abs(found[name] - found[f"{name}_chance"]) < 5 * found[f"{name}_chance_std"] + 1e-9


def test_real_classes_are_far_from_chance_and_have_a_spread() -> None:
    h, labels = blobs()
    given = labellings(labels, 5, 0.8, 0, [labels[::-1].copy(), labels])
    found = gathered("separation", separations(h, given.all()), given).values
    assert found["silhouette"] > found["silhouette_chance"] + 10 * found["silhouette_chance_std"]
    assert 0 < found["silhouette_std"] < 0.2
    assert found["silhouette_seed_std"] == pytest.approx(found["silhouette"] / np.sqrt(2), rel=1)


def test_an_undefined_metric_is_absent_with_its_reason() -> None:
    given = labellings(np.zeros(4, int), 3, 0.8, 0)
    found = gathered("separation", separations(LINE, given.all()), given)
    assert not found.values
    assert "1 classes" in found.unavailable["separation"]


# ---- retrieval ----------------------------------------------------------------------------------------------------


def test_neighbours_are_the_nearest_others() -> None:
    indices, distances = retrieval.neighbours(LINE, 2)
    assert indices.tolist() == [[1, 2], [0, 2], [3, 1], [2, 1]]
    assert distances[2].tolist() == [2, 9]


def test_a_double_is_a_neighbour_and_the_sample_itself_is_not() -> None:
    indices, distances = retrieval.neighbours(np.array([[0.0], [0.0], [5.0]]), 1)
    assert indices[0, 0] != 0
    assert distances[:2].tolist() == [[0], [0]]


def test_consistency_counts_equal_classes_among_the_first_k() -> None:
    indices, _ = retrieval.neighbours(LINE, 2)
    found = retrieval.consistency(indices, PAIRS, np.arange(4), (1, 2))
    assert (found["top1"], found["top2"], found["chance"]) == (1.0, 0.5, 0.5)
    assert found["top1_gain"] == 2.0


def test_consistency_of_random_labels_is_the_sum_of_squared_shares() -> None:
    labels = RNG.choice(4, 2000, p=[0.5, 0.2, 0.2, 0.1])
    indices, _ = retrieval.neighbours(RNG.normal(size=(2000, 3)), 5)
    found = retrieval.consistency(indices, labels, np.arange(2000), (5,))
    assert found["top5"] == pytest.approx(found["chance"], abs=4 * found["top5_std"])


def test_agreement_over_random_is_zero_for_unrelated_vectors_and_large_for_the_same() -> None:
    h, _ = blobs()
    indices, _ = retrieval.neighbours(h, 5)
    value, error = retrieval.agreement_over_random(RNG.normal(size=(80, 6)), indices, np.arange(80), 0)
    assert abs(value) < 4 * error
    assert retrieval.agreement_over_random(h, indices, np.arange(80), 0)[0] > 0.8


def test_chosen_queries_have_the_neighbours_they_have_among_all() -> None:
    h, rows = RNG.normal(size=(60, 4)), np.array([2, 30, 59])
    for some, all_of in zip(retrieval.neighbours(h, 5, rows), retrieval.neighbours(h, 5), strict=True):
        np.testing.assert_allclose(some, all_of[rows])


def test_too_few_samples_for_the_neighbours_asked_for() -> None:
    with pytest.raises(Unavailable, match="4 samples, top-4 needs more than 4"):
        retrieval.neighbours(LINE, 4)


# ---- occupancy ----------------------------------------------------------------------------------------------------


def test_occupancy_of_a_hand_case() -> None:
    counts = np.array([4, 0, 1, 3])
    found = occupancy(counts, near_empty=2)
    share = np.array([0.5, 0.125, 0.375])
    entropy = -(share * np.log(share)).sum()
    assert found["non_empty"] == 3
    assert (found["mean"], found["median"]) == (2.0, 2.0)
    assert (found["p10"], found["p90"]) == pytest.approx((0.3, 3.7))
    assert (found["singletons_share"], found["near_empty_share"]) == (0.25, 0.5)
    assert found["entropy_nats"] == pytest.approx(entropy)
    assert found["entropy_ratio"] == pytest.approx(math.exp(entropy) / 4)
    assert found["largest_share"] == 0.5


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=2, max_size=20).filter(any))
def test_occupancy_has_its_bounds(counts: list[int]) -> None:
    found = occupancy(np.array(counts), 2)
    assert 1 / len(counts) - 1e-9 <= found["entropy_ratio"] <= found["non_empty_share"] + 1e-9
    assert 1 / len(counts) <= found["largest_share"] <= 1
    assert -1e-9 <= gini(np.array(counts)) < 1


def test_equal_classes_are_even_in_every_way() -> None:
    found = occupancy(np.full(7, 3), 1)
    assert found["entropy_ratio"] == pytest.approx(1)
    assert gini(np.full(7, 3)) == pytest.approx(0)
    assert np.allclose(*lorenz(np.full(7, 3)))
    assert counts_of(np.array([0, 2, 2]), 4).tolist() == [1, 0, 2, 0]


def test_a_fair_die_with_many_throws_is_almost_even() -> None:
    many, few = (occupancy_with_spreads(np.full(8, each), 2, 16, 0) for each in (12_500, 2))
    assert many["entropy_ratio_chance"] > 0.999 > few["entropy_ratio_chance"] > 0.5
    assert many["entropy_ratio_std"] < few["entropy_ratio_std"]


# ---- spectrum -----------------------------------------------------------------------------------------------------


def test_rankme_counts_equal_directions() -> None:
    q, _ = np.linalg.qr(RNG.normal(size=(200, 7)) - RNG.normal(size=(200, 7)).mean(0))
    centred = q - q.mean(0)
    assert spectrum.rankme(centred) == pytest.approx(7, abs=0.05)
    assert spectrum.rankme(np.outer(RNG.normal(size=50), np.ones(9))) == pytest.approx(1, abs=1e-3)
    assert spectrum.rankme(np.ones((5, 3))) == 1.0


def test_rankme_ignores_scale_and_offset() -> None:
    h = RNG.normal(size=(60, 6))
    assert spectrum.rankme(3 * h + 100) == pytest.approx(spectrum.rankme(h))


def test_the_spectrum_is_shares_of_the_variance() -> None:
    h = RNG.normal(size=(500, 3)) * np.array([3.0, 1.0, 0.0])
    shares = spectrum.explained(h)
    assert shares.sum() == pytest.approx(1)
    assert shares[0] == pytest.approx(0.9, abs=0.03)
    assert 1 <= spectrum.participation(h) <= 2
    assert np.allclose(spectrum.standardised(h)[:, 2], 0)


# ---- kernel -------------------------------------------------------------------------------------------------------


def test_effective_neighbours_count_equal_weights_and_cannot_vanish() -> None:
    far = np.array([[0.0, 0.0, 0.0, 9.0, 9.0], [0.0, 9.0, 9.0, 0.0, 9.0], [9.0, 9.0, 9.0, 0.0, 0.0]])
    found = kernel.per_sample(far, 3, (1e-3,))
    assert found["effective_positives"][0] == pytest.approx([3, 1, 3]), "far positives beside near negatives count too"
    assert found["effective_negatives"][0] == pytest.approx([2, 1, 2])


def test_the_kernel_is_that_of_the_drift_the_root_of_both_softmaxes_above_its_floor() -> None:
    distances = np.abs(RNG.normal(size=(5, 8)))
    e = np.exp(-distances / 0.7)
    both = np.sqrt(e / e.sum(1, keepdims=True) * e / e.sum(0, keepdims=True))
    found = kernel.per_sample(distances, 3, (0.7, 1e-4))
    np.testing.assert_allclose(found["mass_positive"][0], both[:, :3].sum(1))
    np.testing.assert_allclose(found["mass_negative"][0], both[:, 3:].sum(1))
    np.testing.assert_allclose(found["mass_ratio"][0], both[:, :3].sum(1) / both[:, 3:].sum(1))
    assert found["mass_positive"][1].min() >= 3e-3 * (1 - 1e-9)


def test_a_hot_kernel_counts_all_and_a_cold_one_counts_one() -> None:
    distances = cdist(RNG.normal(size=(6, 3)), RNG.normal(size=(10, 3)))
    both = kernel.per_sample(distances, 4, (1e4, 1e-4))
    hot, cold = ({name: values[place] for name, values in both.items()} for place in (0, 1))
    assert hot["effective_positives"] == pytest.approx(np.full(6, 4), abs=1e-3)
    assert cold["effective_negatives"] == pytest.approx(np.ones(6), abs=1e-3)
    assert (cold["floor_share"] > 0).all() and not hot["floor_share"].any()
    assert hot["mass_ratio"] == pytest.approx(np.full(6, 4 / 6), abs=1e-3)


def test_real_classes_pull_more_than_random_ones() -> None:
    h, labels = blobs()
    params = KernelParams(features=("f",), taus=(0.1,), queries=8, positives=8, negatives=8)
    found = kernel.kernel_with_spreads(h, labellings(labels, 3, 0.8, 0, [labels, labels]), params, 0)
    assert found["tau_0.1"]["mass_ratio_p50"] > 10 * found["tau_0.1"]["mass_ratio_p50_chance"]
    assert found["tau_0.1"]["mass_ratio_p05"] < found["tau_0.1"]["mass_ratio_p95"]
    assert found["distance"]["positive_p50"] < found["distance"]["negative_p05"]


def test_queries_positives_and_negatives_never_share_a_sample() -> None:
    params = KernelParams(features=("f",), taus=(0.1,), queries=64, positives=64, negatives=64)
    for begin, end in ((0, 2), (2, 4)):
        groups = kernel.draw(np.array([3, 1, 0, 2]), begin, end, params, np.random.default_rng(0))
        assert sorted(np.concatenate(groups).tolist()) == [0, 1, 2, 3]
        assert [len(group) for group in groups] == [1, 1, 2]


def test_singletons_have_no_kernel() -> None:
    params = KernelParams(features=("f",), taus=(0.1,), queries=8, positives=8, negatives=8)
    with pytest.raises(Unavailable, match="no class has two samples"):
        kernel.class_distances(LINE, np.arange(4), params, 0)


# ---- agreement ----------------------------------------------------------------------------------------------------


def test_nmi_and_ari_are_those_of_scikit_learn() -> None:
    dice = np.random.default_rng(3)
    for classes, values, count in [(6, 4, 200), (40, 3, 57), (3, 2, 40)]:
        labels, factor = dice.integers(0, classes, count), dice.integers(0, values, count)
        for other in (factor, np.where(dice.random(count) < 0.8, factor, 0), labels):
            table = contingency(labels, other)
            assert nmi_of(table) == pytest.approx(normalized_mutual_info_score(other, labels), abs=1e-12)
            assert ari_of(table) == pytest.approx(adjusted_rand_score(other, labels), abs=1e-12)


def test_nmi_most_is_reached_where_every_class_is_one_value_and_never_passed() -> None:
    factor = np.repeat(np.arange(4), 50)
    split = factor * 8 + np.tile(np.arange(8), 25)  # eight classes within every value
    assert nmi(split, factor) == pytest.approx(nmi_most(split, factor)) == pytest.approx(4 / (2 + 5), abs=0.02)
    for seed in range(20):
        labels = np.random.default_rng(seed).integers(0, 6, 200)
        assert nmi(labels, factor) <= nmi_most(labels, factor) <= 1


def test_the_same_classes_agree_fully_and_random_ones_at_chance() -> None:
    factor = np.arange(400) % 5
    full = agreements({"f": factor}, labellings(np.array([3, 1, 0, 4, 2])[factor], 5, 0.8, 0))["f"]
    assert (full["nmi"], full["ari"]) == pytest.approx((1, 1))
    other = agreements({"f": factor}, labellings(RNG.permutation(factor), 20, 0.8, 0))["f"]
    assert other["nmi"] == pytest.approx(other["nmi_chance"], abs=5 * other["nmi_chance_std"])
    assert abs(other["ari_chance"]) < 0.02


def test_nmi_of_a_hand_case() -> None:
    # classes halve a factor with two values: I = ln 2, H = ln 4 and ln 2
    assert nmi(np.array([0, 1, 2, 3]), np.array([0, 0, 1, 1])) == pytest.approx(2 / 3)


def test_factors_are_combined_and_what_cannot_vary_is_left_out() -> None:
    index = pd.DataFrame(
        {"factor_a": ["x", "x", "y"], "factor_b": ["1", "2", "1"], "factor_c": ["k"] * 3, "key": list("abc")}
    )
    index["factor_d"] = ["p", None, "q"]
    found = factor_labels(index, KnownFactors(identity=("a", "b"), motion=("missing",)))
    assert set(found) == {"a", "b", "identity"}
    assert len(np.unique(found["identity"])) == 3


def test_a_probe_reads_what_is_there_and_guesses_what_is_not() -> None:
    factor, train = np.arange(300) % 3, np.arange(300) < 200
    h = np.eye(3)[factor] + RNG.normal(0, 0.1, (300, 3))
    assert probe(h, {"f": factor}, train, 0.01)["f"]["accuracy"] == 1.0
    noise = probe(RNG.normal(size=(300, 3)), {"f": RNG.permutation(factor)}, train, 0.01)["f"]
    assert abs(noise["accuracy"] - 1 / 3) < 5 * noise["accuracy_std"]
    assert noise["accuracy_chance"] == pytest.approx(1 / 3, abs=0.15)


def test_families_of_prompts_are_named_by_words_that_say_something() -> None:
    texts = ["a red dot and the sea"] * 6 + ["a blue dot and the sky"] * 6
    families = prompt_families(np.repeat(np.eye(2), 6, axis=0), texts, 0, count=2)
    assert sorted({name.partition(": ")[2] for name in families}) == ["blue, sky", "red, sea"]


# ---- gates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.6, "pass"), (0.5, "pass"), (0.49, "warn"), (0.2, "warn"), (0.0, "fail")]
)
def test_a_gate_passes_warns_and_fails_in_this_order(value: float, verdict: str) -> None:
    up = gate("x", value, Threshold(warn=0.5, fail=0.2), ">=", "why")
    down = gate("x", -value, Threshold(warn=-0.5, fail=-0.2), "<=", "why")
    assert up["verdict"] == down["verdict"] == verdict
    assert up["threshold"] == (0.2 if verdict == "fail" else 0.5)


def test_a_gate_without_a_value_warns_and_says_why() -> None:
    gates = Gates.model_validate(PARAMS["diagnostics"]["gates"])
    results = {
        "occupancy": occupancy(np.full(4, 5), 2),
        "collapse": {"input_path": {"rankme_share": 0.5}},
        "unavailable": {"held_out": "3 samples", "agreement/motion": "no such factor"},
        "agreement": {"identity": {"nmi": 0.9, "nmi_chance": 0.1}},
    }
    found = {one["name"]: one for one in judge(gates, results)}
    for name in ("retrieval_excess", "text_to_keyframes", "keyframes_to_text"):
        assert found[name]["verdict"] == "warn" and "value" not in found[name]
        assert "3 samples" in found[name]["reason"]
    assert found["agreement_identity"]["verdict"] == "pass"
    assert found["agreement_motion"]["verdict"] == "warn" and "no such factor" in found["agreement_motion"]["reason"]


def test_thresholds_the_wrong_way_round_are_refused() -> None:
    gates = PARAMS["diagnostics"]["gates"]
    for name, wrong in (("rankme", {"warn": 0.5, "fail": 0.9}), ("largest_share", {"warn": 0.5, "fail": 0.1})):
        with pytest.raises(ValidationError, match=f"{name}\n.*fail 0.* (above|below) warn 0.5"):
            Gates.model_validate({**gates, name: wrong})


def test_a_known_factor_that_the_data_lacks_is_told() -> None:
    known = KnownFactors(identity=("shape",), motion=("way",))
    labels = {"shape": np.array([0, 1]), "identity": np.array([0, 1])}
    assert missing_factors(labels, known) == {"agreement/motion": "known_factors.motion is [way]; the data has shape"}
    assert "no known factors" in missing_factors({}, known)["agreement"]


def test_a_collapsed_codebook_fails() -> None:
    gates = Gates.model_validate(PARAMS["diagnostics"]["gates"])
    results = {
        "occupancy": occupancy(np.array([97, 1, 1, 1, 0, 0, 0, 0]), 2),
        "collapse": {"input_path": {"rankme_share": 0.0}},
    }
    verdicts = {one["name"]: one["verdict"] for one in judge(gates, results)}
    assert {verdicts[name] for name in ("near_empty_share", "largest_share", "entropy_ratio", "rankme")} == {"fail"}


# ---- null codebooks -----------------------------------------------------------------------------------------------

TOPS = (1, 5)


def halves(common: float, samples: int = 900) -> tuple[Embedding, np.ndarray]:
    """An aligned embedding of two parts that share a factor of eight values by so much, or nothing at all (0)."""
    rng = np.random.default_rng(0)
    factor = np.eye(8)[rng.integers(0, 8, samples)] * common
    parts = {"text": rng.normal(size=(samples, 24)), "keyframes": rng.normal(size=(samples, 20))}
    parts["text"][:, :8] += factor
    parts["keyframes"][:, :8] += factor
    recipe = {**PARAMS["pseudo_classes"]["embedding"], "motion": None}
    params = EmbeddingParams.model_validate(recipe)
    train = np.arange(samples) % 3 > 0
    embedding = Embedding.fit(params, lambda rows: {n: v[rows] for n, v in parts.items()}, np.flatnonzero(train), ALONE)
    return embedding, embedding.apply(parts)


def held_out_numbers(common: float) -> dict:
    """A report of what the gates read, for classes fitted on two thirds of the samples of :func:`halves`."""
    embedding, h = halves(common)
    among, queries = np.flatnonzero(np.arange(len(h)) % 3 > 0), np.flatnonzero(np.arange(len(h)) % 3 == 0)
    how = Kmeans(kind="kmeans", restarts=2, max_iterations=50)

    def fit(samples: Samples, number: int) -> Codebook:
        return quantiser.fit(samples, 12, how, number, ALONE)

    book = fit(Samples(h, among), 0)
    labels = quantiser.assign(book, h).labels
    own = held_out.against_null(h, labels, queries, among, 12, fit, TOPS, 2)
    crossed = held_out.crossed(book, h, embedding.text_width, queries, among, TOPS)
    others = [quantiser.assign(fit(Samples(h, among), number), h).labels for number in (1, 2)]
    given = labellings(labels, 3, 0.8, 0, others)
    return {
        "occupancy": occupancy(counts_of(labels[among], 12), 4),
        "held_out": {**own.values, **crossed.values},
        "stability": stability_block(given, own.values["stability_null"]).values,
    }


def test_gates_fail_on_a_codebook_of_noise_and_pass_where_captions_and_clips_share_something() -> None:
    gates = Gates.model_validate(PARAMS["diagnostics"]["gates"])
    names = ("retrieval_excess", "text_to_keyframes", "keyframes_to_text", "stability")
    noise = {one["name"]: one for one in judge(gates, held_out_numbers(0.0))}
    shared = {one["name"]: one for one in judge(gates, held_out_numbers(8.0))}
    assert {name: noise[name]["verdict"] for name in names} == dict.fromkeys(names, "fail")
    assert {name: shared[name]["verdict"] for name in names} == dict.fromkeys(names, "pass")
    found = held_out_numbers(0.0)["held_out"]
    assert found["top5"] > 4 / 12  # what used to pass: far above chance, and no more than the null codebook has
    assert found["text_to_keyframes_top5"] == pytest.approx(found["text_to_keyframes_top5_chance"], abs=0.05)


def test_half_an_embedding_has_no_other_half_to_judge_it() -> None:
    h, labels = blobs()
    book = Codebook(np.stack([h[labels == n].mean(0) for n in range(4)]), 0.0)
    found = held_out.crossed(book, h, 0, np.arange(20), np.arange(20, 80), TOPS)
    assert not found.values and "h has no text" in found.unavailable["held_out/text_to_keyframes"]


# ---- degenerate input ---------------------------------------------------------------------------------------------


def test_equal_points_are_never_well_separated() -> None:
    with pytest.raises(Unavailable, match="all samples are equal"):
        separation(np.ones((6, 2)), np.arange(6) % 2)


def test_coinciding_classes_have_no_davies_bouldin_and_points_no_calinski_harabasz() -> None:
    h = np.array([[1.0], [-1.0], [1.0], [-1.0], [5.0], [6.0]])
    assert "davies_bouldin" not in separation(h, np.array([0, 0, 1, 1, 2, 2]))
    assert "calinski_harabasz" not in separation(np.array([[0.0], [0.0], [1.0], [1.0]]), PAIRS)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_values_that_are_not_finite_give_reasons(odd: float) -> None:
    h, labels = blobs()
    h[3, 1] = odd
    params = KernelParams(features=("f",), taus=(0.1,), queries=8, positives=8, negatives=8)
    for measured in (
        lambda: separation(h, labels),
        lambda: retrieval.neighbours(h, 5),
        lambda: spectrum.rankme(h),
        lambda: kernel.class_distances(h, labels, params, 0),
        lambda: retrieval.agreement_over_random(h, np.zeros((80, 1), int), np.arange(80), 0),
    ):
        with pytest.raises(Unavailable, match="not finite"):
            measured()


def test_equal_points_retrieve_at_chance_in_whatever_order_the_classes_stand() -> None:
    labels = np.repeat(np.arange(8), 50)
    indices, _ = retrieval.neighbours(np.ones((400, 3)), 5)
    found = retrieval.consistency(indices, labels, np.arange(400), (5,))
    assert found["top5"] < 0.3


def test_one_class_or_one_value_has_no_agreement_and_no_retrieval() -> None:
    one, two = np.zeros(10, int), np.arange(10) % 2
    for score in (nmi_of, ari_of):
        with pytest.raises(Unavailable, match=r"one (value|class)"):
            score(contingency(one, one))
    with pytest.raises(Unavailable, match="one class"):
        retrieval.consistency(np.zeros((10, 1), int), one, np.arange(10), (1,))
    assert nmi_of(contingency(one, two)) == 0


def test_a_collapsed_space_has_the_least_rank_and_one_class_no_evenness() -> None:
    assert (spectrum.rankme(np.ones((5, 3))), spectrum.participation(np.ones((5, 3)))) == (1.0, 1.0)
    halved = labellings(np.zeros(20, int), 3, 0.8, 0)
    assert spectrum.rank_numbers(np.outer(np.arange(20.0), np.ones(4)), halved, 0)["rankme_share"] < 0.01
    assert "rankme_share" not in spectrum.rank_numbers(np.arange(20.0)[:, None], halved, 0)
    assert "entropy_ratio" not in occupancy(np.array([7]), 2)
    with pytest.raises(Unavailable, match="no samples"):
        occupancy(np.zeros(3, int), 2)
