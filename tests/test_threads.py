"""Work side by side: in order, at once, and torch's threads as they were; small products get few threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.threads import PIXELS_A_THREAD, at_once, readers, side_by_side, threads_for
from pipelines.training.precision import FasterInFloat32

pytestmark = pytest.mark.usefixtures("four_threads")


@pytest.mark.parametrize("number", [1, 2, 4])
def test_items_come_in_order_with_what_was_made_of_them_and_threads_are_given_back(number: int) -> None:
    together = threading.Barrier(number, timeout=60)

    def made(item: int) -> tuple[int, int]:
        together.wait()  # nobody goes on before so many are at work
        return 10 * item, torch.get_num_threads()

    found = list(side_by_side(made, range(8), number))
    assert found == [(item, (10 * item, 4 // number)) for item in range(8)]
    assert torch.get_num_threads() == 4


def test_no_more_items_are_taken_than_are_worked_on_and_one_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(20):
            taken.append(item)
            yield item

    results = side_by_side(lambda item: item, items(), 2)
    assert next(results) == (0, 0) and taken == [0, 1, 2]
    results.close()
    assert torch.get_num_threads() == 4


def test_an_error_of_one_item_is_raised_and_threads_are_given_back() -> None:
    def fails(item: int) -> int:
        raise ValueError(f"no {item}")

    with pytest.raises(ValueError, match="no 0"):
        list(side_by_side(fails, range(3), 2))
    assert torch.get_num_threads() == 4


@given(pixels=st.integers(0, 16 * PIXELS_A_THREAD))
def test_a_training_has_as_many_threads_as_its_pixels_keep_busy_and_no_more_than_there_are(pixels: int) -> None:
    with pytest.raises(KeyError), threads_for(pixels):
        inside = torch.get_num_threads()
        raise KeyError
    assert inside == min(4, max(1, pixels // PIXELS_A_THREAD))
    assert torch.get_num_threads() == 4


def test_the_autoencoder_of_the_demo_has_one_thread_and_one_of_larger_clips_more() -> None:
    for micro_batch, side, threads in ((16, 64, 1), (16, 128, 2), (64, 64, 2), (64, 256, 4)):
        with threads_for(micro_batch * 4 * side * side):
            assert torch.get_num_threads() == threads


@pytest.mark.parametrize("number", [1, 3])
def test_readers_use_one_thread_of_torch_each_and_leave_the_callers_as_they_are(number: int) -> None:
    together = threading.Barrier(number, timeout=60)

    def seen(_: int) -> int:
        together.wait()
        return torch.get_num_threads()

    with readers(number) as pool:
        assert torch.get_num_threads() == 4
        assert list(pool.map(seen, range(number))) == [1] * number
        assert torch.get_num_threads() == 4


def test_on_an_accelerator_nothing_goes_side_by_side() -> None:
    assert (at_once(torch.device("cpu")), at_once(torch.device("cuda"))) == (4, 1)


def test_a_mode_that_another_thread_is_in_is_not_entered_here() -> None:
    inside, over = threading.Barrier(2, timeout=60), threading.Barrier(2, timeout=60)

    def enters() -> None:
        with FasterInFloat32():
            inside.wait()
            over.wait()

    other = threading.Thread(target=enters)
    other.start()
    inside.wait()
    assert FasterInFloat32.entered.times == 0
    with FasterInFloat32():
        assert FasterInFloat32.entered.times == 1
    over.wait()
    other.join()
