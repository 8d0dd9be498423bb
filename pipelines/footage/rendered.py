"""The rendered source: series of sprite clips named by their seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from pipelines import stage
from pipelines.data.catalog import COMPOSITION, TEST, TRAIN, VALIDATION
from pipelines.footage import factors
from pipelines.footage.clips import Cut, Made, content_hash, store
from pipelines.footage.factors import Factors, Series
from pipelines.footage.params import Clip, Rendered, Splits
from pipelines.footage.render import VERSION, Scene, actions, render, scene
from pipelines.footage.splits import check_filled, even_share


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


def drawn(params: Rendered, splits: Splits) -> Iterator[tuple[str, Factors, Series, int]]:
    """Split, factors, series and index of every clip, split by split.

    Training and validation clips are of the series ``seed``, test clips of the series ``test_seed``, and those of
    held-out combinations of a third. A larger ``num_clips`` keeps what a smaller one gave.
    """
    num_test = int(params.num_clips * splits.test + 1e-9)
    seen, unseen, apart = (params.seed,), (params.test_seed,), (params.test_seed, 1)
    marks = even_share(params.num_clips - num_test, splits.validation / (1 - splits.test))
    for index, validation in enumerate(marks):
        yield VALIDATION if validation else TRAIN, factors.draw(seen, index, params.held_out), seen, index
    for index in range(num_test):
        yield TEST, factors.draw(unseen, index, params.held_out), unseen, index
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
    for place, (split, values, series, index) in enumerate(wanted, 1):
        one = scene(values, series, index, clip.num_frames, (clip.height, clip.width))
        row, fidelity = store(cut(one, clip), clip, folder)
        made.clips.append({**row, "split": split})
        made.fidelity.append(fidelity)
        stage.report(place, len(wanted), unit="clip")
    return made
