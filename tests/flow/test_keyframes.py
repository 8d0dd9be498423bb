"""Keyframes: nested sets, the same for a sample whatever is beside it; counts that cannot be used are refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.flow import keyframes
from pipelines.stage import StageError

KINDS = ("doubling", "linear", "geometric")


def test_the_guides_counts_are_geometric() -> None:
    assert keyframes.counts(21, 4, 4, "geometric") == [21, 14, 9, 6, 4]


@given(st.integers(2, 64), st.integers(2, 16), st.integers(1, 8), st.sampled_from(KINDS))
def test_counts_fall_strictly_from_the_whole_clip_or_are_refused(
    total: int, least: int, levels: int, kind: str
) -> None:
    try:
        found = keyframes.counts(total, least, levels, kind)  # type: ignore[arg-type]
    except StageError as error:
        assert "must fall strictly" in str(error)
        return
    assert found[0] == total and found[-1] == min(least, total) and len(found) == levels + 1
    assert all(one > other for one, other in pairwise(found))


def test_doubling_that_stops_short_of_the_clip_is_refused_with_what_would_do() -> None:
    assert keyframes.growth(21, 2, 3, "doubling") == [16, 8, 4, 2]
    with pytest.raises(StageError, match=r"give \[16, 8, 4, 2\], which must fall strictly from 21; levels from 4 to 4"):
        keyframes.counts(21, 2, 3, "doubling")


@given(st.integers(0, 1000), st.booleans())
@settings(deadline=None)
def test_sets_are_nested_and_as_large_as_stated(seed: int, endpoints: bool) -> None:
    numbers = keyframes.counts(21, 4, 4, "geometric")
    draw = torch.Generator().manual_seed(seed)
    scores, by_level = torch.rand(3, 21, generator=draw), torch.rand(3, 5, 21, generator=draw)
    base = torch.zeros(3, 21, dtype=torch.bool)
    base[:, [2, 5, 9, 20]] = True
    for masks in (
        keyframes.ranked(scores, numbers, endpoints),
        keyframes.ranked_by_level(by_level, numbers, endpoints),
        keyframes.ranked_from(base, scores, numbers),
    ):
        assert masks.sum(2).tolist() == [numbers] * 3
        assert (masks[:, 1:] <= masks[:, :-1]).all(), "a sparser level holds no other frames"
    if endpoints:
        assert keyframes.ranked(scores, numbers, True)[:, :, [0, -1]].all()
    assert torch.equal(keyframes.ranked_from(base, scores, numbers)[:, -1], base)


def test_lowest_scores_are_chosen_first() -> None:
    scores = torch.tensor([[0.5, 0.1, 0.9, 0.3, 0.2]])
    assert keyframes.ranked(scores, [5, 3, 2], False)[0, 2].nonzero().flatten().tolist() == [1, 4]
    assert keyframes.ranked(scores, [5, 3, 2], True)[0, 1].nonzero().flatten().tolist() == [0, 1, 4]


def test_a_level_without_room_for_the_endpoints_is_refused() -> None:
    with pytest.raises(StageError, match="first and last frame are always given, so a level has 2 or more"):
        keyframes.ranked(torch.rand(1, 5), [5, 1], True)


@given(st.integers(1, 40), st.integers(1, 40))
def test_even_places_rise_strictly_from_end_to_end(total: int, number: int) -> None:
    number = min(number, total)
    found = keyframes.uniform(total, number)
    assert len(found) == number and found == sorted(set(found)) and found[0] == 0
    assert number == 1 or found[-1] == total - 1


def test_each_sample_has_the_mask_of_its_level() -> None:
    masks = keyframes.ranked(torch.rand(3, 21), [21, 9, 4], True)
    assert keyframes.at_level(masks, torch.tensor([0, 1, 2])).sum(1).tolist() == [21, 9, 4]


def test_frames_know_their_keyframes() -> None:
    mask = torch.zeros(1, 9, dtype=torch.bool)
    mask[0, [2, 6]] = True
    before, after = keyframes.neighbours(mask)
    assert before.tolist() == [[-1, -1, 2, 2, 2, 2, 6, 6, 6]] and after.tolist() == [[2, 2, 2, 6, 6, 6, 6, 9, 9]]
    assert keyframes.distance_share(mask).tolist() == [[1, 1, 0, 0.5, 1, 0.5, 0, 1, 1]]
