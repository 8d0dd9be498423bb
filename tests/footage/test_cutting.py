"""Cutting: windows, buckets that lose few pixels, shot boundaries."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.limits import VideoError
from pipelines.data.video import Seen
from pipelines.footage.cutting import CutWindow, Form, advance, best_sizes, cut, forms, pixels_kept, tail
from pipelines.footage.cutting_params import Buckets, Cutting
from pipelines.footage.params import Clip
from pipelines.footage.shots import boundaries, distance, look

CLIP = Clip(num_frames=5, height=32, width=32, frame_rate=8.0, crf=10)
lengths = st.sets(st.sampled_from([5, 9, 13, 17]), min_size=1)


@dataclass(frozen=True)
class Plain:
    """A picture of one level; the level of the red channel is its number."""

    number: int
    level: int = 0
    size: tuple[int, int] = (48, 64)

    def cover(self, height: int, width: int) -> np.ndarray:
        pixels = np.full((height, width, 3), self.level, np.uint8)
        pixels[0, 0, 0] = self.number
        return pixels

    def whole(self, height: int, width: int) -> np.ndarray:
        return np.full((height, 2 * width, 3), self.level, np.uint8)


def windows(
    pictures: list[Plain | None], choices: list[Form], stride: float = 1.0, shots: Any = None
) -> list[CutWindow]:
    cutting = Cutting.model_validate({"stride": stride, "shots": shots, "buckets": None, "hold": None})
    return list(cut(iter(pictures), choices, cutting, 8.0))


def numbers(window: CutWindow) -> list[int]:
    return window.frames[:, 0, 0, 0].tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(5, 60), st.sampled_from([0.2, 0.5, 1.0, 1.5, 3.0]), st.lists(st.integers(0, 59), max_size=3))
def test_windows_have_the_wanted_length_and_stride_and_cross_no_gap(count: int, stride: float, gaps: list[int]) -> None:
    pictures = [None if k in gaps else Plain(k) for k in range(count)]
    try:
        found = windows(pictures, [(5, 32, 32)], stride)
    except VideoError:
        assert all(any(k in gaps for k in range(start, start + 5)) for start in range(count - 4))
        return
    for window in found:
        assert numbers(window) == list(range(window.start, window.start + 5))
        assert not set(numbers(window)) & set(gaps)
    for one, other in itertools.pairwise(found):
        apart = other.start - one.start
        crossed = any(one.start <= gap < other.start for gap in gaps)
        assert apart == advance(5, stride) or crossed


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), lengths)
def test_the_last_stretch_is_cut_as_loses_fewest_frames(left: int, chosen: set[int]) -> None:
    kept = dict.fromkeys(chosen, 1.0)
    found = tail(left, 0, kept, 1.0)
    reachable = {0}
    for total in range(1, left + 1):
        if any(total - frames in reachable for frames in chosen):
            reachable.add(total)
    assert sum(found) == max(reachable)


@settings(max_examples=60, deadline=None)
@given(st.integers(5, 120), lengths)
def test_no_frame_is_in_two_clips_without_overlap(count: int, chosen: set[int]) -> None:
    try:
        found = windows([Plain(k) for k in range(count)], [(frames, 32, 32) for frames in sorted(chosen)])
    except VideoError:
        assert count < min(chosen)
        return
    used = [number for window in found for number in numbers(window)]
    assert len(used) == len(set(used)) and used == sorted(used)
    assert count - len(used) < min(chosen)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((720, 1280), (64, 112)), ((1280, 720), (112, 64)), ((480, 480), (80, 80)), ((100, 90), (80, 80))],
)
def test_the_size_that_loses_fewest_pixels_is_taken(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    choices = [(17, 64, 112), (17, 112, 64), (17, 80, 80)]
    assert best_sizes(choices, size)[17][0] == wanted


@given(st.integers(16, 2000), st.integers(16, 2000))
def test_enlarging_keeps_no_more_than_there_is(height: int, width: int) -> None:
    kept = [pixels_kept((5, side, side), (height, width)) for side in (16, 64, 256, 4096)]
    assert kept == sorted(kept) and kept[-1] <= height * width + 1e-6
    assert pixels_kept((5, height, width), (height, width)) == pytest.approx(height * width)


def test_a_longer_bucket_leads_and_shorter_ones_take_the_rest() -> None:
    found = windows([Plain(k) for k in range(60)], [(5, 32, 32), (17, 32, 32)])
    assert [len(window.frames) for window in found[:2]] == [17, 17]
    assert sum(len(window.frames) for window in found) >= 59


def test_pictures_get_forms_of_one_frame_and_videos_the_others() -> None:
    buckets = Buckets.model_validate({"fold": 8, "sizes": [[1, 32, 32], [9, 32, 48]]})
    assert forms(CLIP, buckets, still=True) == ((1, 32, 32),)
    assert forms(CLIP, buckets, still=False) == ((9, 32, 48),)
    assert forms(CLIP, None, still=True) == () and forms(CLIP, None, still=False) == ((5, 32, 32),)


@pytest.mark.parametrize(
    ("fold", "sizes", "words"),
    [(8, [[13, 32, 32]], "1 mod 8; write"), (4, [[16, 32, 32]], "write 17"), (4, [[5, 32, 33]], "even"), (4, [], "at")],
)
def test_buckets_that_no_autoencoder_takes_are_refused(fold: int, sizes: list[list[int]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Buckets.model_validate({"fold": fold, "sizes": sizes})


def test_no_clip_crosses_a_shot_boundary() -> None:
    shots = {"threshold": 0.15, "ratio": 2.5}
    pictures = [Plain(k, level=20 if k < 7 else 200) for k in range(20)]
    found = windows(pictures, [(5, 32, 32)], shots=shots)
    assert [window.start for window in found] == [0, 7, 12]
    with pytest.raises(VideoError, match="none of its 5 shots has the 5 frames"):
        windows([Plain(k, level=250 * (k // 4 % 2)) for k in range(20)], [(5, 32, 32)], shots=shots)


def test_lasting_motion_is_no_boundary_and_a_gap_is_not_compared() -> None:
    moving = [Plain(k, level=25 * (k % 10)) for k in range(9)]
    assert not any(found for _, found in boundaries(iter(moving), 0.15, 2.5))
    apart: list[Plain | None] = [Plain(0, 10), Plain(1, 10), None, Plain(3, 240), Plain(4, 240)]
    told = list(boundaries(iter(apart), 0.15, 2.5))
    assert [picture for picture, _ in told] == apart
    assert not any(found for _, found in told)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_distance_of_frames_is_a_share_and_zero_for_equals(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 256, (2, 40, 50, 3), np.uint8)
    here, there = look(one), look(other)
    assert distance(here, here) == 0.0
    assert 0 < distance(here, there) <= 1 and distance(here, there) == distance(there, here)


def test_only_a_picture_that_may_begin_a_shot_waits_for_those_behind_it() -> None:
    taken: list[int] = []

    def pictures() -> Iterator[Plain]:
        for number, level in enumerate([9, 10, 11, 200, 201, 202, 203]):
            taken.append(number)
            yield Plain(number, level)

    found = []
    for place, (_, begins) in enumerate(boundaries(pictures(), 0.15, 2.5)):
        found.append((place, begins, len(taken)))
    assert [place for place, begins, _ in found if begins] == [3]
    assert [read for _, _, read in found] == [1, 2, 3, 6, 6, 6, 7]


def test_what_is_too_short_for_a_clip_is_not_read() -> None:
    seen, taken = Seen(total=14), []

    def pictures() -> Iterator[Plain]:
        for number in range(14):
            taken.append(number)
            yield Plain(number)

    cutting = Cutting.model_validate(
        {"stride": 1.0, "shots": {"threshold": 0.15, "ratio": 2.5}, "buckets": None, "hold": None}
    )
    assert [window.start for window in cut(pictures(), [(5, 32, 32)], cutting, 8.0, seen)] == [0, 5]
    assert taken == list(range(10))
