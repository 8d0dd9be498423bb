"""The rendered source: series of sprite clips named by their seeds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pipelines import machine, stage
from pipelines.data.catalog import COMPOSITION, TEST, TRAIN, VALIDATION
from pipelines.footage import factors
from pipelines.footage.ahead import in_order
from pipelines.footage.factors import Factors, Series
from pipelines.footage.params import Clip, Rendered, Splits
from pipelines.footage.render import VERSION, Scene, actions, render, scene
from pipelines.footage.splits import check_filled, even_share
from pipelines.footage.storing import Cut, Made, content_hash, store


def cut(drawn: Scene, clip: Clip) -> Cut:
    """The clip of a scene, with everything known about it."""
    return Cut(
        frames=render(drawn),
        content_hash=content_hash(clip, renderer=VERSION, scene=asdict(drawn)),
        caption=factors.caption(drawn.factors),
        source="rendered",
        start_seconds=0.0,
        actions=actions(drawn),
        factors=factors.columns(drawn.factors),
    )


STEERED_SERIES, COMPOSITION_SERIES = 1, 2
"""What stands behind a seed in the names of the series that are not the main one."""

Drawn = tuple[str, Factors, Series, int]
"""Split, factors, series and index of a clip."""


def _series(
    draw: Callable[[Series, int], Factors], kind: Series, num_clips: int, params: Rendered, splits: Splits
) -> Iterator[Drawn]:
    """The clips of one kind: of the series ``seed`` for train and validation, of the series ``test_seed`` for test."""
    num_test = int(num_clips * splits.test + 1e-9)
    marks = even_share(num_clips - num_test, splits.validation / (1 - splits.test))
    seen, unseen = (params.seed, *kind), (params.test_seed, *kind)
    for index, validation in enumerate(marks):
        yield VALIDATION if validation else TRAIN, draw(seen, index), seen, index
    for index in range(num_test):
        yield TEST, draw(unseen, index), unseen, index


def drawn(params: Rendered, splits: Splits) -> Iterator[Drawn]:
    """Every clip; a larger ``num_clips`` keeps what a smaller one gave."""
    num_steered = int(params.num_clips * params.steered_share + 1e-9)
    described = partial(factors.draw, never=params.held_out)
    steered = partial(factors.draw_steered, never=params.held_out)
    yield from _series(described, (), params.num_clips - num_steered, params, splits)
    yield from _series(steered, (STEERED_SERIES,), num_steered, params, splits)
    apart = (params.test_seed, COMPOSITION_SERIES)
    for index in range(params.composition.num_clips if params.composition else 0):
        yield COMPOSITION, factors.draw_combined(apart, index, params.held_out), apart, index


def make_clips(params: Rendered, clip: Clip, splits: Splits, folder: Path) -> Made:
    """Render the series into ``folder``; longer series keep the clips, keys and splits of shorter ones.

    Raises:
        StageError: so few clips that a split is empty.
    """
    wanted = list(drawn(params, splits))
    check_filled([split for split, *_ in wanted], "raw_video.source.rendered", "Raise num_clips or the shares")
    made = Made(num_files=len(wanted))

    def stored(one: Drawn) -> tuple[dict[str, Any], float]:
        _, values, series, index = one
        return store(cut(scene(values, series, index, clip.num_frames, (clip.height, clip.width)), clip), clip, folder)

    done = in_order(stored, wanted, machine.workers(), threading.Event())
    for place, ((split, *_), (row, fidelity)) in enumerate(done, 1):
        made.clips.append({**row, "split": split})
        made.fidelity.append(fidelity)
        stage.report(place, len(wanted), unit="clip")
    return made
