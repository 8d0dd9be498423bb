"""Fréchet distances, motion and pixel numbers have their closed forms and their extremes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation import video_metrics
from pipelines.evaluation.video_metrics import FeatureSpace, frechet_distance, local_vs_global_ratio

SEEDS = st.integers(0, 2**31 - 1)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.0, 0.5))
def test_equal_clips_have_distance_zero_and_distance_is_symmetric(seed: int, shrinkage: float) -> None:
    first, second = normal(seed, 40, 6), 2.0 * normal(seed + 1, 30, 6) + 1.0
    assert frechet_distance(first, first, shrinkage) == pytest.approx(0.0, abs=1e-8)
    there, back = frechet_distance(first, second, shrinkage), frechet_distance(second, first, shrinkage)
    assert there > 0 and there == pytest.approx(back, rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(-3.0, 3.0), st.floats(0.2, 4.0))
def test_shift_and_scale_of_one_gaussian_give_the_closed_form(seed: int, shift: float, scale: float) -> None:
    features = normal(seed, 200, 1)
    std = float(features.double().std())
    mean = float(features.double().mean())
    expected = (mean * (scale - 1) + shift) ** 2 + (std * (scale - 1)) ** 2
    moved = features.double() * scale + shift
    assert frechet_distance(features, moved, 0.0) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_rotation_changes_no_distance() -> None:
    first, second = normal(0, 50, 5).double(), normal(1, 50, 5).double() @ normal(2, 5, 5).double()
    rotation, _ = torch.linalg.qr(normal(3, 5, 5).double())
    rotated = frechet_distance(first @ rotation, second @ rotation, 0.1)
    assert rotated == pytest.approx(frechet_distance(first, second, 0.1), rel=1e-9)


def test_fewer_samples_than_dimensions_are_no_obstacle() -> None:
    assert math.isfinite(frechet_distance(normal(0, 4, 32), normal(1, 4, 32), 0.05))


def test_one_sample_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="at least two samples, got 1"):
        frechet_distance(normal(0, 1, 3), normal(1, 4, 3), 0.0)


def test_the_square_root_squares_to_the_matrix() -> None:
    half = normal(0, 6, 6).double()
    matrix = half @ half.T
    root = video_metrics.square_root(matrix)
    torch.testing.assert_close(root @ root, matrix)


def test_a_feature_space_has_unit_mean_variance_and_ignores_constants() -> None:
    reference = torch.cat([normal(0, 300, 8) * torch.arange(1, 9), torch.full((300, 2), 7.0)], dim=1)
    space = FeatureSpace.fit(reference, 5)
    projected = space.project(reference)
    assert projected.shape == (300, 5)
    assert float(projected.var(0).mean()) == pytest.approx(1.0, rel=1e-3)
    torch.testing.assert_close(space.project(reference + torch.tensor([0.0] * 8 + [5.0, 5.0])), projected)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.floats(0.1, 5.0))
def test_the_motion_ratio_is_one_for_real_clips_and_grows_with_the_square_of_motion(seed: int, gain: float) -> None:
    real = normal(seed, 6, 4, 5, 3, 3)
    shared = real.mean(2, keepdim=True)
    assert local_vs_global_ratio(real, real) == pytest.approx(1.0)
    assert local_vs_global_ratio(shared + gain * (real - shared), real) == pytest.approx(gain**2, rel=1e-4)


def test_a_frozen_clip_has_motion_ratio_zero_and_full_consistency() -> None:
    video = normal(0, 4, 3, 1, 8, 8).expand(-1, -1, 5, -1, -1)
    assert local_vs_global_ratio(video, normal(1, 4, 3, 5, 8, 8)) == pytest.approx(0.0, abs=1e-9)
    assert video_metrics.temporal_consistency(video) == pytest.approx(1.0)
    assert video_metrics.frame_difference(video) == 0.0


def test_frame_difference_is_in_gray_levels() -> None:
    video = torch.stack([torch.full((1, 3, 4, 4), level) for level in (-1.0, -1.0 + 2 / 255)], dim=2)
    assert video_metrics.frame_difference(video) == pytest.approx(1.0, rel=1e-5)


def test_psnr_has_its_closed_form() -> None:
    video = torch.zeros(2, 3, 5, 4, 4)
    assert video_metrics.psnr(video + 0.02, video) == pytest.approx(40.0, rel=1e-5)
