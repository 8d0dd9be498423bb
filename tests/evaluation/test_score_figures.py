"""Pictures of the scores: every number can be read."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from matplotlib.text import Text

from pipelines.drawing import new_figure
from pipelines.evaluation.score_figures import _agreement


def row(value: float) -> dict[str, Any]:
    return {"agreement": {"all_identity": value, "all_motion": value / 2, "all_scene": 1.0}}


@pytest.mark.parametrize("count", [1, 3, 6, 8])
def test_no_number_of_a_system_covers_anothers(count: int) -> None:
    figure = new_figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    systems = {f"system_{number}": row(0.7 + 0.02 * number) for number in range(count)}
    _agreement(axes, {"systems": systems, "references": {"held_out": row(0.9), "chance": row(0.3)}})
    figure.canvas.draw()
    numbers = [text for text in axes.texts if isinstance(text, Text)]
    boxes = [text.get_window_extent() for text in numbers]
    assert len(numbers) == 3 * count
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
