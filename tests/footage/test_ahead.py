"""Several files at once, as if it were one after another."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.footage.ahead import in_order


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 4))
def test_results_come_in_the_order_of_the_items(waits: list[int], threads: int) -> None:
    def work(wait: int) -> int:
        time.sleep(wait / 1000)
        return -wait

    assert list(in_order(work, iter(waits), threads, threading.Event())) == [(wait, -wait) for wait in waits]


def test_no_more_items_are_open_than_said() -> None:
    opened: list[int] = []

    def items():
        for number in range(20):
            opened.append(number)
            yield number

    for number, _ in in_order(abs, items(), 2, threading.Event()):
        assert len(opened) <= number + 4


def test_items_are_worked_on_side_by_side() -> None:
    meeting = threading.Barrier(2, timeout=30)  # breaks unless two threads are in it at once
    assert len(list(in_order(lambda _: meeting.wait(), range(2), 2, threading.Event()))) == 2


def test_an_error_is_raised_at_its_turn_and_stops_the_rest() -> None:
    stop = threading.Event()

    def work(number: int) -> int:
        if number == 1:
            raise ValueError("one")
        return number

    results = in_order(work, range(100), 2, stop)
    assert next(results) == (0, 0)
    with pytest.raises(ValueError, match="one"):
        list(results)
    assert stop.is_set()


def test_whoever_stops_asking_stops_the_work() -> None:
    stop = threading.Event()
    results = in_order(lambda number: stop.wait(30 if number else 0), range(3), 1, stop)
    next(results)
    results.close()
    assert stop.is_set()
