"""The rendered source: a series of sprite clips named by its seed."""

from __future__ import annotations

from pathlib import Path

from pipelines import stage
from pipelines.footage import factors
from pipelines.footage.clips import Cut, Made, even_share, store
from pipelines.footage.params import Clip, Rendered
from pipelines.footage.render import Scene, actions, render, scene


def cut(drawn: Scene) -> Cut:
    """The clip of a scene, with everything known about it."""
    content_hash = drawn.content_hash()
    return Cut(
        frames=render(drawn),
        key=f"sprite-{content_hash[:16]}",
        content_hash=content_hash,
        caption=factors.caption(drawn.factors),
        source="rendered",
        start_seconds=0.0,
        actions=actions(drawn),
        factors=factors.columns(drawn.factors),
    )


def make_clips(params: Rendered, clip: Clip, held_out_share: float, folder: Path) -> Made:
    """Render the series into ``folder``; a longer series keeps the clips, keys and splits of a shorter one."""
    made = Made(num_files=params.num_clips)
    for index, held_out in enumerate(even_share(params.num_clips, held_out_share)):
        drawn = scene(params.seed, index, clip.num_frames, (clip.height, clip.width), clip.frame_rate)
        row, fidelity = store(cut(drawn), clip, "held_out" if held_out else "train", folder)
        made.clips.append(row)
        made.fidelity.append(fidelity)
        stage.report(index + 1, params.num_clips, unit="clip")
    return made
