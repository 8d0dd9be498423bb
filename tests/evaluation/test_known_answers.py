"""Numbers of the judge on inputs whose answer is worked out by hand, or by another library."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap
from sklearn.decomposition import PCA

from pipelines.evaluation import video_metrics
from pipelines.evaluation.distances import Training, distances_between, polynomial
from pipelines.evaluation.judge import Clips, Judge, chance, grouped
from pipelines.evaluation.params import KnownFactors
from pipelines.evaluation.resampling import Estimate, Resamples, all_compared
from pipelines.evaluation.video_metrics import FeatureSpace, moments


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_frame_differences_are_in_grey_levels() -> None:
    """In [-1, 1] a step of 2 is 255 levels: steps 0.2 and 0 of two frames pairs."""
    video = torch.tensor([0.0, 0.2, 0.2]).reshape(1, 1, 3, 1, 1).expand(1, 3, 3, 2, 2)
    assert video_metrics.frame_difference(video) == pytest.approx(0.1 * 127.5)


def test_moments_are_numpys_and_shrunk_towards_their_mean_variance() -> None:
    values = np.random.default_rng(0).normal(size=(9, 3)) * [1, 2, 3]
    mean, covariance = moments(torch.from_numpy(values), 0.25)
    plain = np.cov(values.T)
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_allclose(covariance, 0.75 * plain + 0.25 * np.trace(plain) / 3 * np.eye(3))


def test_a_feature_space_is_scikit_learns_pca_of_standardised_features_on_one_scale() -> None:
    values = np.random.default_rng(0).normal(size=(50, 4)) @ np.random.default_rng(1).normal(size=(4, 4))
    standard = (values - values.mean(0)) / values.std(0, ddof=1)
    theirs = PCA(2).fit_transform(standard)
    theirs /= np.sqrt(theirs.var(0, ddof=1).mean())
    ours = FeatureSpace.fit(torch.from_numpy(values), 2).project(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), rtol=1e-8, atol=1e-9)


def test_the_kernel_and_distances_of_a_hand_case() -> None:
    x, y = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[3.0, 4.0]]).double()
    assert float(polynomial(x, y)) == pytest.approx(((1 * 3 + 2 * 4) / 2 + 1) ** 3)
    assert float(distances_between(x, y)) == pytest.approx(8**0.5)


def test_a_copy_is_nearer_than_half_of_what_real_clips_rarely_come_to() -> None:
    """Training clips at 0, 1, 10, 11 are 1 apart; real ones lie 0.4 to 0.8 of that away, 5 % of them within 0.42."""
    training = Training.of(column(0, 1, 10, 11), column(0.4, 0.4, 10.6, 11.8))
    assert training.near == pytest.approx(0.5 * float(np.quantile([0.4, 0.4, 0.4, 0.8], 0.05)), abs=1e-9)
    made = column(10.1, 5.0, 11.3)
    assert training.nearest(made).tolist() == pytest.approx([0.1, 4.0, 0.3])
    assert training.copies(made).tolist() == [True, False, False]


def test_chance_says_what_training_clips_show_most() -> None:
    words = {"color": ["red", "blue", "blue", "red"]}
    assert chance(words, {"color": ["red", "red", "blue"]}) == {"color": 0.5}
    assert chance(words, {"color": ["b", "a"]}) == {"color": 0.0}


def test_groups_are_means_over_the_factors_that_are_known() -> None:
    factors = KnownFactors(identity=("shape", "color"), motion=("speed",), scene=("tone",))
    found = grouped(factors, {"shape": 0.2, "color": 0.6, "speed": 1.0})
    assert found == {"all_identity": pytest.approx(0.4), "all_motion": 1.0}


def judge(**given: Any) -> Judge:
    """With nothing but what a number needs."""
    empty = dict.fromkeys(("params", "encoder", "real", "spaces", "probe", "resamples", "reference_resamples"))
    return Judge(**{**empty, **given})


def test_agreement_is_the_share_of_clips_that_are_read_as_their_prompt_says() -> None:
    """Shapes right in 1 of 2, colours in 2 of 2: identity 0.75, over clips (1 + 0.5) / 2."""
    factors = KnownFactors(identity=("shape", "color"), motion=(), scene=())
    params = SimpleNamespace(probe=SimpleNamespace(factors=factors))
    given = judge(params=params, resamples=Resamples.of(2, 1, 20, 0), words={"shape": ["a", "b"], "color": ["r", "r"]})
    found = given.agreement({"shape": ["a", "a"], "color": ["r", "r"]})
    values = {name: one.value for name, one in found.items()}
    assert values == {"agreement/shape": 0.5, "agreement/color": 1.0, "agreement/all_identity": 0.75}


def test_the_missing_error_is_the_mean_square_where_nothing_was_given() -> None:
    """Of three frames the second was missing: squares 4 and 16, whatever the others are."""
    real = Clips(torch.zeros(2, 1, 3, 1, 1), torch.zeros(2, 3, 3, 2, 2))
    latents = torch.tensor([[9.0, 2, 9], [9, 4, 9]]).reshape(2, 1, 3, 1, 1)
    missing = torch.tensor([False, True, False]).expand(2, 3)
    made = Clips(latents, torch.full((2, 3, 3, 2, 2), 0.2), missing)
    given = judge(real=real, spaces={}, resamples=Resamples.of(2, 1, 20, 0))
    factors = KnownFactors(identity=(), motion=(), scene=())
    object.__setattr__(given, "params", SimpleNamespace(probe=SimpleNamespace(factors=factors)))
    found = given.scores(made, {})
    assert found.estimates["missing_error"].value == pytest.approx((4 + 16) / 2)
    assert found.values["psnr"] == pytest.approx(10 * np.log10(4 / 0.04), abs=1e-4)
    assert found.values["frame_difference"] == 0.0


def test_an_interval_over_prompts_is_scipys_percentile_bootstrap() -> None:
    """Not to the last digit: both draw at random."""
    values = torch.from_numpy(np.random.default_rng(0).gamma(2.0, size=60))
    ours = Resamples.of(60, 1, 4000, 1).mean(values)
    theirs = bootstrap((values.numpy(),), np.mean, method="percentile", n_resamples=4000, rng=2).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_every_pair_is_compared_once_and_nearness_to_one_is_of_logarithms() -> None:
    """0.5 and 2 are equally far from 1."""

    def at(value: float) -> dict[str, Estimate]:
        return {"motion_ratio": Estimate(value, torch.full((10,), value).double())}

    found = all_compared({"a": at(0.5), "b": at(2.0), "c": at(1.0)}, {"motion_ratio": "near 1"})
    assert set(found) == {"a against b", "a against c", "b against c"}
    assert found["a against b"]["motion_ratio"]["difference"] == pytest.approx(0.0)
    assert found["a against c"]["motion_ratio"]["difference"] == pytest.approx(np.log(2))
    assert found["a against c"]["motion_ratio"]["verdict"] == "worse"


def test_video_as_bytes_is_what_a_file_holds_and_its_numbers_are_within_half_a_level() -> None:
    video = torch.tensor([-1.5, -1.0, -0.999, 0.0, 0.5, 1.0, 2.0])
    held = video_metrics.bytes_of(video)
    assert held.tolist() == [0, 0, 0, 128, 191, 255, 255] and held.dtype == torch.uint8
    assert video_metrics.bytes_of(held) is held and video_metrics.values(video) is video
    assert video_metrics.values(held)[[0, 5]].tolist() == [-1.0, 1.0]
    torch.testing.assert_close(video_metrics.values(held), video.clamp(-1, 1), rtol=0, atol=0.5 / 127.5 + 1e-6)


@pytest.mark.parametrize("number", ["frame_difference", "temporal_consistency", "psnr"])
def test_numbers_of_bytes_are_those_of_the_values_that_they_stand_for(number: str) -> None:
    held = torch.randint(256, (4, 3, 4, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    videos = [held, held.flip(0)] if number == "psnr" else [held]
    metric = getattr(video_metrics, number)
    of_values = metric(*map(video_metrics.values, videos))  # in float32, which bytes are not rounded to
    assert metric(*videos) == pytest.approx(of_values, rel=1e-6)
