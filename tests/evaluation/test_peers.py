"""Our numbers are those of torchmetrics 1.9.0 and scikit-image 0.26.0 on fixed inputs, or differ as their page says.

The constants are what tests/evaluation/peers.py printed.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.evaluation import video_metrics
from pipelines.evaluation.distances import Kernels, spread_ratios
from pipelines.evaluation.resampling import Estimate, Resamples, compared
from pipelines.latents import measures
from pipelines.representation.agreement import ari_of, contingency, nmi
from pipelines.representation.separation import separations
from tests.evaluation.peers import clips, features, labels


def test_psnr_is_scikit_images_per_clip_and_not_the_one_of_all_pixels() -> None:
    made, real = clips()
    assert video_metrics.psnr(made, real) == pytest.approx(31.783263346590928, abs=1e-9)
    assert abs(video_metrics.psnr(made, real) - 23.98286265649376) > 5, "torchmetrics: of the mean over all pixels"


def test_ssim_is_scikit_images_and_not_that_of_a_gaussian_window() -> None:
    made, real = clips()
    assert float(measures.ssim(made, real).double().mean()) == pytest.approx(0.894412346216718, abs=1e-6)
    assert abs(float(measures.ssim(made, real).mean()) - 0.8755934765193025) > 0.01, "torchmetrics, by default"


def test_the_frechet_distance_without_shrinkage_is_torchmetrics() -> None:
    one, other = features()
    assert video_metrics.frechet_distance(one, other, 0.0) == pytest.approx(1.164957843772867, rel=1e-6)
    assert measures.frechet(one, other) == pytest.approx(1.164957843772867, rel=1e-6)


def test_the_kernel_distance_is_kid_of_all_samples_and_torchmetrics_of_one_subset() -> None:
    one, other = features()
    everything = Kernels.of(one, other).distance(torch.ones(40).double(), torch.ones(30).double())
    assert everything == pytest.approx(0.504245538360752, rel=1e-9)
    equal = Kernels.of(one[:30], other).distance(torch.ones(30).double(), torch.ones(30).double())
    assert equal == pytest.approx(0.4580390840138615, rel=1e-9)


def test_agreement_and_separation_are_torchmetrics() -> None:
    points, classes, factor = (one.numpy() for one in labels())
    table = contingency(classes, factor)
    assert nmi(classes, factor) == pytest.approx(0.4108542799949646, abs=1e-6)
    assert ari_of(table) == pytest.approx(0.29826831817626953, abs=1e-6)
    [found] = separations(points, [classes])
    assert isinstance(found, dict)
    assert found["davies_bouldin"] == pytest.approx(1.684690237045288, rel=1e-6)
    assert found["calinski_harabasz"] == pytest.approx(29.966699600219727, rel=1e-5)


# ---- what no library has, by hand ---------------------------------------------------------------------------------


def test_motion_ratio_of_a_hand_case() -> None:
    """One pixel, two frames: a, b share (a + b) / 2 and move (b - a) / 2 each."""
    made, real = (torch.tensor(pair).double().reshape(1, 1, 2, 1, 1) for pair in ([1.0, 3.0], [2.0, 6.0]))
    assert video_metrics.local_vs_global_ratio(made, real) == pytest.approx((1 / 4) / (4 / 16))
    still = torch.tensor([2.0, 2.0]).double().reshape(1, 1, 2, 1, 1)
    assert video_metrics.local_vs_global_ratio(still, real) == 0.0


def test_temporal_consistency_of_a_hand_case() -> None:
    """Frames less their mean colour are (-1, 1), (-1, 1) and (1, -1): cosines 1 and -1."""
    frames = torch.tensor([[0.0, 2.0], [4.0, 6.0], [1.0, -1.0]]).reshape(1, 1, 3, 1, 2)
    assert video_metrics.temporal_consistency(frames) == pytest.approx(0.0)


def test_spread_ratio_of_a_hand_case() -> None:
    made, real = torch.tensor([[0.0], [2.0]]).double(), torch.tensor([[0.0], [6.0]]).double()
    assert float(spread_ratios(made, real, torch.ones(1, 2).double())) == pytest.approx(1 / 3)


def test_flicker_counts_still_places_alone() -> None:
    target = torch.zeros(1, 3, 2, 1, 2)
    target[0, :, 1, 0, 1] = 1.0  # the second pixel moves
    made = torch.tensor([0.0, 0.1])[None, None, :, None, None].expand_as(target)
    total, count = measures.flicker(made, target)
    assert count == 3 and total / count == pytest.approx(0.1 * 127.5)


def test_one_independent_channel_of_three_is_effective_by_its_entropy() -> None:
    base = np.random.default_rng(0).normal(size=(4000, 2))
    same = torch.tensor(np.stack([base[:, 0], base[:, 0], base[:, 1]], 1))
    shares = np.array([2 / 3, 1 / 3])
    assert measures.latent_usage(same)["effective_channels"] == pytest.approx(
        float(np.exp(-(shares * np.log(shares)).sum())), abs=0.01
    )


def test_an_interval_and_a_verdict_of_a_hand_case() -> None:
    counts = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]]).double()
    one = Resamples(counts).mean(torch.tensor([1.0, 3.0]))
    assert one.value == 2.0 and one.draws.tolist() == [1.0, 3.0, 2.0]
    assert (one.low, one.high) == pytest.approx((1.05, 2.95))
    better = compared(Estimate(2.0, torch.tensor([2.0, 2.1])), Estimate(1.0, torch.tensor([1.0, 1.2])), "higher")
    assert better["verdict"] == "better" and better["difference"] == 1.0
    assert (better["low"], better["high"]) == pytest.approx((0.9025, 0.9975))
