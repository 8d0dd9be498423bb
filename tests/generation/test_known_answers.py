"""Held-out numbers of flows on clips of one pixel, of which every answer is worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pipelines.generation.anchored_flow import motion_ratio
from pipelines.generation.rectified_flow import held_out_error, held_out_from_first_frame
from pipelines.generation.validation import FixedLevels, agreement


class Answer(nn.Module):
    """A denoiser that answers by a formula of x and sigma."""

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, x: Tensor, sigma: Tensor, **conditions: Tensor) -> Tensor:
        return self.formula(x, sigma)


def clips(*frames: list[float]) -> Tensor:
    return torch.tensor(frames, dtype=torch.float32).reshape(len(frames), 1, -1, 1, 1)


def fixed(latents: Tensor, noise: Tensor, *levels: float) -> FixedLevels:
    """Every clip at every level, level by level."""
    many = len(levels)
    sigma = torch.tensor(levels).repeat_interleave(len(latents))[:, None]
    wide = (many, 1, 1, 1, 1)
    return FixedLevels(latents.repeat(wide), noise.repeat(wide), noise.repeat(wide)[:, :, :1], sigma, {}, levels, 2)


def test_predicting_no_velocity_has_the_targets_power_as_loss_and_explains_nothing() -> None:
    """Velocities noise - latents are (1, 3) and (1, 1): mean squares 5 and 1."""
    levels = fixed(clips([0, 0], [1, 1]), clips([1, 3], [2, 2]), 0.25, 0.75)
    found = levels.numbers(*held_out_error(Answer(lambda x, sigma: torch.zeros_like(x)), levels))
    assert found["loss"] == found["loss_at_sigma_0.250"] == found["loss_at_sigma_0.750"] == pytest.approx(3.0)
    assert found["explained"] == pytest.approx(0.0) and found["target_velocity_mag"] == pytest.approx(6 / 4)


def test_a_loss_stands_at_its_own_level_and_explained_counts_all() -> None:
    """Of latents 0, x is sigma times the noise: x / sigma is right. An answer x is off by (1 - sigma) noise."""
    levels = fixed(clips([0, 0]), clips([2, 2]), 0.25, 0.75)
    right = levels.numbers(*held_out_error(Answer(lambda x, sigma: x / sigma[:, :, None, None, None]), levels))
    assert right["loss"] == pytest.approx(0.0, abs=1e-10) and right["explained"] == pytest.approx(1.0)
    found = levels.numbers(*held_out_error(Answer(lambda x, sigma: x), levels))
    at = [(0.75 * 2) ** 2, (0.25 * 2) ** 2]
    assert [found["loss_at_sigma_0.250"], found["loss_at_sigma_0.750"]] == pytest.approx(at)
    assert found["loss"] == pytest.approx(sum(at) / 2) and found["explained"] == pytest.approx(1 - sum(at) / 2 / 4)


def test_from_a_given_first_frame_the_others_alone_count() -> None:
    levels = fixed(clips([5, 0, 0]), clips([9, 1, 3]), 0.5)
    none = Answer(lambda x, sigma: torch.zeros_like(x))
    assert held_out_from_first_frame(none, levels) == {"validation/loss_from_first_frame": pytest.approx((1 + 9) / 2)}


def test_cosine_and_magnitudes_of_two_velocities() -> None:
    """3, 4 and 4, 3 have the cosine 24 / 25."""
    found = agreement(clips([3, 4]), clips([4, 3]))
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {"velocity_cos_sim": 24 / 25, "pred_velocity_mag": 3.5, "target_velocity_mag": 3.5}
    )


def test_the_motion_ratio_is_of_sums_over_clips_and_absent_where_nothing_moves() -> None:
    """1, 3 move by 1 around 2, and 4, 4 stand at 4; 0, 4 move by 2 around 2."""
    made, true = clips([1, 3], [4, 4]), clips([0, 4], [0, 4])
    assert motion_ratio(made, true, "r") == {"r": pytest.approx(((1 + 0) / (4 + 16)) / (4 / 4))}
    assert motion_ratio(true, clips([3, 3]), "r") == {} == motion_ratio(clips([-1, 1]), true, "r")
