"""Two commits train the same, or the first number that differs is named."""

from __future__ import annotations

from benchmarks.same_loss import compared
from pipelines.training.same import first_difference

ROWS = [{"step": step, "loss/net": 1.0 / step, "throughput/samples_per_second": 5.0} for step in (1, 2, 3)]


def test_times_do_not_count_and_the_first_difference_is_named() -> None:
    faster = [{**row, "throughput/samples_per_second": 9.0} for row in ROWS]
    assert first_difference(ROWS, faster) is None
    changed = [*faster[:1], {**faster[1], "loss/net": 0.5 + 2**-53}, faster[2]]
    assert first_difference(ROWS, changed) == (2, "loss/net: 0.5 → 0.5000000000000001")
    assert first_difference(ROWS, ROWS[:2]) == (3, "one of them has no such step")
    assert first_difference(ROWS, [{"step": 1, "loss/net": 1.0, "loss/new": 2.0}]) == (1, "loss/new: absent → 2.0")


def test_what_cannot_be_built_on_one_side_is_told_and_is_not_the_same() -> None:
    found = compared({"a": ROWS, "b": "ImportError: no b"}, {"a": ROWS, "b": ROWS, "c": ROWS})
    assert [(name, same) for name, _, same in found] == [("a", True), ("b", False), ("c", False)]
    assert "base: ImportError: no b" in found[1][1] and "not there" in found[2][1]
