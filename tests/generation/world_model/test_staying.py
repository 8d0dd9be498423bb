"""What is measured in pixels of rollouts: coming back, and seams; on videos of which the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.generation.world_model.recorded import Measured, quarters
from pipelines.generation.world_model.staying import RETURN, SEAM, away, seams

LEG, CLIPS, TRIPS = 4, 3, 5


def excursion(back: float) -> np.ndarray:
    """Pictures whose brightness goes up by 10 a frame for a leg, then down by ``back`` of that, again and again."""
    steps = np.tile([10.0] * LEG + [-10.0 * back] * LEG, TRIPS)
    level = np.concatenate([[0.0], np.cumsum(steps)])
    return np.broadcast_to(level[None, :, None, None, None], (CLIPS, len(level), 2, 2, 3)).round().astype(np.uint8)


@pytest.mark.parametrize(("back", "ratio"), [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)])
def test_an_excursion_is_held_against_its_own_start(back: float, ratio: float) -> None:
    """Also the last of a long rollout, whose start drifted away: only its own way back counts."""
    turn, home = away(excursion(back), LEG)
    assert turn.shape == home.shape == (CLIPS, TRIPS)
    assert torch.allclose(home, ratio * turn, atol=1.0) and bool((turn >= 39).all())
    found = Measured()
    found.ratio(RETURN, home, turn, 20)
    assert found.numbers[RETURN] == pytest.approx(ratio, abs=0.03)
    assert found.numbers[f"{RETURN}_low"] <= found.numbers[RETURN] <= found.numbers[f"{RETURN}_high"]


def test_what_never_moved_has_no_way_back() -> None:
    found = Measured()
    for frames in (9, 5):  # still; and too short to come back
        turn, home = away(np.zeros((2, frames, 2, 2, 3), np.uint8), 4)
        found.ratio(f"{frames}", home, turn, 20)
    assert not found.numbers and set(found.unavailable) == {"9", "5"}


def test_the_interval_of_a_ratio_is_over_clips() -> None:
    above, below = torch.tensor([[1.0], [9.0]]), torch.tensor([[10.0], [10.0]])
    found = Measured()
    found.ratio("one", above, below, 400)
    assert (found.numbers["one"], found.numbers["one_low"], found.numbers["one_high"]) == (0.5, 0.1, 0.9)


def test_a_seam_is_a_larger_step_where_chunks_meet_in_the_quarter_where_it_is() -> None:
    change = np.full(32, 2.0)
    change[24] = 6.0  # the step after frame 24, where chunks of 8 meet
    level = np.concatenate([[0.0], np.cumsum(change)])
    video = np.broadcast_to(level[None, :, None, None, None], (2, 33, 2, 2, 3)).astype(np.uint8)
    found = Measured()
    seams(found, video, video[:, :1], 8, 20)
    assert found.numbers[f"{SEAM}/q4"] == pytest.approx(3.0) and found.numbers[f"{SEAM}/q3"] == pytest.approx(1.0)
    assert found.numbers[SEAM] == pytest.approx((2 + 2 + 6) / 3 / 2)
    assert set(found.unavailable) == {f"{SEAM}/q1", "reader/seam_ratio_real"}


def test_quarters_hold_everything_once() -> None:
    for count in range(12):
        parts = [part for _, part in quarters(count)]
        assert sorted(np.concatenate([*parts, []])) == list(range(count)) and len(parts) == min(count, 4)
