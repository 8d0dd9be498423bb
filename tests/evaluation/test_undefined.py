"""What clips do not define is absent with a reason, and never the best value."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pipelines.evaluation import distances, video_metrics
from pipelines.evaluation.judge import Clips, Judge
from pipelines.evaluation.resampling import Resamples

N, D = 24, 5
ONES = torch.ones(N, dtype=torch.float64)


def test_a_space_of_equal_training_clips_judges_nothing() -> None:
    """In it everything would be as near to the real clips as they are to themselves."""
    for reference in (torch.full((8, 4), 0.1), torch.randn(1, 4)):
        with pytest.raises(ValueError, match="all alike"):
            video_metrics.FeatureSpace.fit(reference, 3)
    for train in (torch.zeros(5, 3), torch.zeros(1, 3)):
        with pytest.raises(ValueError, match="training clips"):
            distances.Training.of(train, torch.randn(4, 3))
    training = distances.Training.of(torch.randn(9, 3), torch.randn(4, 3))
    with pytest.raises(ValueError, match="not finite"):
        training.copies(torch.full((2, 3), math.nan))


def test_samples_that_are_all_alike_have_no_variety_and_are_far_from_various_ones() -> None:
    real, alike = torch.randn(N, D, dtype=torch.float64), torch.zeros(N, D, dtype=torch.float64)
    assert float(distances.spread_ratios(alike, real, ONES[None])) == 0
    assert video_metrics.frechet_distance(alike, real, 0.1) > 1
    assert distances.Kernels.of(alike, real).distance(ONES, ONES) > 0.1
    with pytest.raises(ValueError, match="all alike"):
        distances.spread_ratios(real, alike, ONES[None])
    with pytest.raises(ValueError, match="two samples a side"):
        distances.Kernels.of(real[:2], real, copies=2)


def test_two_neighbouring_frames_of_one_colour_do_not_count_as_unlike() -> None:
    clip = torch.rand(1, 3, 1, 8, 8).expand(1, 3, 4, 8, 8)
    fading = torch.cat([clip, torch.zeros(1, 3, 4, 8, 8)], 2)
    assert video_metrics.temporal_consistency(fading) == pytest.approx(3 / 4)


def test_what_an_evaluation_cannot_say_of_some_clips_is_named_and_the_rest_is_there() -> None:
    still = torch.rand(4, 3, 1, 8, 8).expand(4, 3, 5, 8, 8)
    real = Clips(torch.rand(4, 2, 2, 4, 4), still)
    params: Any = None
    one = Judge(
        params, params, real, {}, None, Resamples.of(4, 1, 3, 0), Resamples.of(4, 1, 3, 1), undefined={"": "why"}
    )
    object.__setattr__(one, "agreement", lambda readings: {})
    found = one.scores(Clips(real.latents.clone(), still.clone()), {})
    assert found.unavailable == {
        "distance": "why",
        "psnr": "4 clips are equal to their references: no PSNR",
    }
    assert found.values == {"frame_difference": 0.0, "temporal_consistency": pytest.approx(1.0)}
    assert found.estimates["motion_ratio"].value == pytest.approx(1.0)
