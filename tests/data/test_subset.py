"""Measurements read a bounded part of a large data set, drawn by a seed, and all of a small one."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.subset import subset


@given(st.lists(st.integers(), unique=True, max_size=60), st.integers(1, 70), st.integers(0, 9))
def test_it_is_bounded_ordered_and_the_same_again(rows: list[int], most: int, seed: int) -> None:
    found = subset(rows, most, seed)
    assert len(found) == min(len(rows), most) and found == subset(rows, most, seed)
    assert found == [row for row in rows if row in set(found)]
    assert len(rows) > most or found == rows


def test_another_seed_draws_others_from_all_over_the_rows() -> None:
    rows = list(range(1000))
    one, other = subset(rows, 100, 0), subset(rows, 100, 1)
    assert one != other and min(one) < 100 and max(one) > 900
