"""Held-out numbers of a refiner on clips of one pixel, of which every answer is worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import energy_distance
from torch import Tensor

from pipelines.generation.drifting.measuring import (
    HeldOut,
    Independent,
    bent,
    errors,
    gain,
    interval,
    mean_of,
    motion,
    named,
)


def clips(*frames: list[float]) -> Tensor:
    """Clips [B, 1, T, 1, 1] of one pixel."""
    return torch.tensor(frames, dtype=torch.float32).reshape(len(frames), 1, -1, 1, 1)


def held(true: Tensor, filled: Tensor) -> HeldOut:
    """First and last frame given; the frames between are filled in."""
    mask = torch.zeros(len(true), true.shape[2], dtype=torch.bool)
    mask[:, 0] = mask[:, -1] = True
    told, noise = torch.zeros_like(mask, dtype=torch.float32), torch.zeros(1, *true.shape)
    return HeldOut(true, filled, told, mask, noise, {}, len(true), (2,), ["a"] * len(true), clamp=True)


TRUE, FILLED = clips([9, 2, 9], [9, 4, 9]), clips([9, 0, 9], [9, 0, 9])
MADE = torch.stack([clips([9, 1, 9], [9, 2, 9]), clips([9, 3, 9], [9, 4, 9])])
"""Two samples: squared errors 1 and 1 of the first clip, 4 and 0 of the second; interpolation's are 4 and 16."""


def test_errors_count_missing_frames_alone_as_a_mean_over_samples() -> None:
    found = errors(held(TRUE, FILLED), MADE)
    assert found["missing_error"] == found["missing_error_of_2_keyframes"] == pytest.approx((1 + 2) / 2)
    assert found["interpolation_error"] == found["interpolation_error_of_2_keyframes"] == pytest.approx((4 + 16) / 2)


def test_the_spread_share_is_what_samples_differ_by_over_what_their_mean_leaves() -> None:
    """Variances over n - 1: 2 and 2; the means 2 and 3 miss 2 and 4 by squares 0 and 1."""
    assert errors(held(TRUE, FILLED), MADE)["spread_share"] == pytest.approx(math.sqrt(2 / 0.5))
    exact = torch.stack([TRUE, TRUE])
    assert "spread_share" not in errors(held(TRUE, FILLED), exact), "nothing is left to be spread over"


def test_the_gain_is_the_share_of_all_error_that_is_gone_not_the_mean_of_shares() -> None:
    found = gain(held(TRUE, FILLED), MADE, 50)
    assert found["gain"] == found["gain_of_2_keyframes"] == pytest.approx(1 - (1 + 2) / (4 + 16))
    assert (found["gain_low"], found["gain_high"]) == pytest.approx((1 - 1 / 4, 1 - 2 / 16))


def test_the_motion_of_a_clip_is_over_what_it_shares_and_over_the_same_of_true_clips() -> None:
    """1, 3 move by 1 around 2; 0, 4 by 2 around 2."""
    given = held(clips([0, 4], [0, 4]), clips([1, 3], [1, 3]))
    assert motion(given, clips([1, 3], [1, 3]), 5) == pytest.approx(((1 / 4) / (4 / 4),) * 3)
    assert motion(given, clips([2, 2], [2, 2]), 5) == (0.0, 0.0, 0.0)


def test_a_line_is_not_bent_and_a_picture_is_itself() -> None:
    assert bent(clips([0, 3, 2], [1, 2, 3])).tolist() == [[0, 2, 0], [0, 0, 0]]
    assert bent(clips([5.0])).tolist() == [[5.0]]


def test_the_energy_distance_is_scipys_without_the_pairs_of_a_sample_with_itself() -> None:
    """scipy gives the root of 2 E|x - y| - E|x - x'| - E|y - y'| with those pairs counted, so that it is never 0."""
    one, other = [0.0, 2.0], [1.0, 5.0]
    space = Independent(torch.zeros(1), torch.eye(1), torch.tensor(other)[:, None])
    made, _, _ = space.distance(clips(*([x] for x in one)), 5)
    assert made == pytest.approx(2 * (1 + 5 + 1 + 3) / 4 - 2 - 4)
    with_itself = 2 * (1 + 5 + 1 + 3) / 4 - 2 / 2 - 4 / 2
    assert energy_distance(one, other) == pytest.approx(math.sqrt(with_itself))


def test_an_interval_is_of_resampled_clips() -> None:
    values = torch.tensor([1.0, 9.0])
    found = interval(lambda rows: float(values[rows].mean()), 2, 400)
    assert named("x", found) == {"x": 5.0, "x_low": 1.0, "x_high": 9.0}
    assert interval(lambda rows: float(values[rows].mean()), 1, 3) == (1.0, 1.0, 1.0)


def test_a_mean_over_spaces_is_of_the_numbers_of_that_ending() -> None:
    numbers = {"drift/a/tau_0.1/force": 1.0, "drift/b/tau_0.1/force": 3.0, "drift/b/force_share": 9.0}
    assert mean_of(numbers, "force") == 2.0 and mean_of(numbers, "spread") is None
