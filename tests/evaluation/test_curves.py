"""Axes have round ticks inside their range; curves keep first and last points."""

import json
import re
from html import unescape

from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation import curves

FINITE = st.floats(-1e6, 1e6)


@given(FINITE, st.floats(1e-3, 1e6))
def test_ticks_are_few_ordered_and_inside(low: float, length: float) -> None:
    found = curves.ticks(low, low + length)
    assert 1 <= len(found) <= 7
    assert found == sorted(found)
    assert all(low - 1e-6 * length <= value <= low + length + 1e-6 * length for value in found)


@given(st.floats(1e-6, 1e3), st.floats(1.5, 1e6))
def test_log_ticks_are_inside(low: float, factor: float) -> None:
    assert all(low <= value <= low * factor for value in curves.log_ticks(low, low * factor))


def test_losses_and_validation_losses_share_the_first_panel() -> None:
    rows = [{"step": s, "lr/a": 1.0, "validation/loss": 0.3, "loss/a": 0.5, "grad_norm/a": 2.0} for s in (1, 2)]
    assert next(iter(curves.panels(rows).items())) == ("loss", ["validation/loss", "loss/a"])


def test_a_number_logged_once_has_no_curve() -> None:
    assert curves.draw([{"step": 1, "loss": 0.5}]) is None
    assert curves.draw([]) is None


@given(st.lists(FINITE, min_size=2, max_size=700))
def test_a_curve_is_thinned_and_ends_where_the_training_ended(values: list[float]) -> None:
    rows = [{"step": float(step), "loss/a": value} for step, value in enumerate(values)]
    found = re.search(r'data-series="([^"]*)"', str(curves.panel(rows, "loss", ["loss/a"])))
    assert found
    points = json.loads(unescape(found.group(1)))[0]["points"]
    assert len(points) <= curves.MOST_POINTS + 1
    assert points[0][0] == 0 and points[-1][0] == len(values) - 1
    assert all(0 <= x <= curves.WIDTH and 0 <= y <= curves.HEIGHT for _, _, x, y in points)


def test_numbers_are_short() -> None:
    assert [curves.number(v) for v in (0.0, 0.5, 1234.0, 25000.0, 2e6, 1e-4, 2.5e-5)] == [
        "0", "0.5", "1234", "25k", "2M", "1e-04", "2.5e-05"]  # fmt: skip
