"""Clips of validations: tiled, named by step, the same bytes for the same clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.data.validation_clips import draw_steps, tiled, write
from pipelines.data.video import read_clip


def clip(level: int, shape: tuple[int, ...] = (4, 16, 16, 3)) -> np.ndarray:
    return np.full(shape, level, np.uint8)


def test_clips_are_tiled_with_white_where_one_is_missing() -> None:
    whole = tiled([clip(10), clip(20), clip(30)])
    assert whole.shape == (4, 32, 32, 3)
    corners = [int(whole[0, y, x, 0]) for y in (0, 31) for x in (0, 31)]
    assert corners == [10, 20, 30, 255]
    assert tiled([clip(10, (2, 15, 15, 3))]).shape == (2, 16, 16, 3)


def test_a_step_has_an_mp4_and_a_sheet_and_equal_clips_give_equal_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write(tmp_path / folder, 230, [clip(60), clip(200)], ["a red square", "ein Würfel"], 8.0)
    names = [path.name for path in sorted((tmp_path / "one").iterdir())]
    assert names == ["step-000230.mp4", "step-000230.png"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    frames = read_clip(tmp_path / "one" / names[0])
    assert (
        frames.shape == (4, 16, 32, 3)
        and abs(int(frames[0, 8, 4, 0]) - 60) < 6
        and abs(int(frames[0, 8, 28, 0]) - 200) < 6
    )


def test_the_picture_of_all_steps_spreads_from_the_first_to_the_last(tmp_path: Path) -> None:
    draw_steps(tmp_path, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    for step in range(1, 10):
        write(tmp_path, step, [clip(20 * step)], ["x"], 8.0)
    draw_steps(tmp_path, tmp_path / "all.png")
    picture = np.asarray(Image.open(tmp_path / "all.png"))
    assert abs(int(picture[-5, 5, 0]) - 20) < 8 and abs(int(picture[-5, -5, 0]) - 180) < 8
