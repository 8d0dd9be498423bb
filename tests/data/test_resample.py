"""Frames at regular times from frames at any times."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.resample import ROUNDING_SECONDS, nearest_in_time

gaps = st.lists(st.floats(0.005, 0.4), min_size=1, max_size=60)


def rising(steps: list[float]) -> list[float]:
    times = [0.0]
    for step in steps:
        times.append(times[-1] + step)
    return times


@given(gaps, st.sampled_from([1.0, 8.0, 12.5, 24.0]))
def test_every_frame_is_the_nearest_and_within_half_a_period_of_its_time(steps: list[float], frame_rate: float) -> None:
    times = rising(steps)
    chosen = list(nearest_in_time(((time, time) for time in times), frame_rate))
    half = 0.5 / frame_rate + ROUNDING_SECONDS
    for k, time in enumerate(chosen):
        nearest = min(abs(k / frame_rate - other) for other in times)
        if time is None:
            assert nearest > half
        else:
            assert abs(k / frame_rate - time) == pytest.approx(nearest)
            assert nearest <= half
    assert abs((len(chosen) - 1) / frame_rate - times[-1]) <= 1.5 / frame_rate


@given(gaps, st.sampled_from([1.0, 8.0, 12.5, 24.0]), st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 5), st.data())
def test_knowing_when_the_next_frame_comes_changes_no_choice(
    steps: list[float], frame_rate: float, hold: float, start: int, data: st.DataObject
) -> None:
    times = rising(steps)
    known = {time: data.draw(st.sampled_from([None, later, (time + later) / 2])) for time, later in pairwise(times)}
    timed = [(time, time) for time in times]
    expected = list(nearest_in_time(timed, frame_rate, hold, start))
    assert list(nearest_in_time(timed, frame_rate, hold, start, known.get)) == expected


def test_a_frame_that_is_known_to_be_the_nearest_is_there_before_the_next_one() -> None:
    coming = iter([(0.0, "a"), (0.125, "b")])
    assert next(nearest_in_time(coming, 8.0, upcoming=lambda seconds: seconds + 0.125)) == "a"
    assert list(coming) == [(0.125, "b")]


def test_a_regular_video_at_its_own_rate_is_kept_whole() -> None:
    assert list(nearest_in_time(((k / 8, k) for k in range(17)), 8.0)) == list(range(17))


def test_timestamps_rounded_to_milliseconds_lose_no_frame() -> None:
    assert list(nearest_in_time(((round(k / 24, 3), k) for k in range(48)), 24.0)) == list(range(48))


def test_a_gap_is_a_gap_and_not_a_repeated_frame() -> None:
    assert list(nearest_in_time([(0.0, "a"), (0.125, "b"), (0.5, "c")], 8.0)) == ["a", "b", None, None, "c"]


def test_a_frame_that_goes_back_in_time_is_passed_over() -> None:
    assert list(nearest_in_time([(0.0, "a"), (0.125, "b"), (0.1, "late"), (0.25, "c")], 8.0)) == ["a", "b", "c"]


def test_nothing_gives_nothing() -> None:
    assert list(nearest_in_time([], 8.0)) == []
