"""Pictures as clips of one frame."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.data.limits import Limits, VideoError
from pipelines.data.stills import read_picture
from pipelines.data.video import read_clip
from tests.footage.footage import CLIP, CUTTING, folder, footage, frames, refused, run, video


def picture(path: Path, size: tuple[int, int] = (48, 64), level: int = 90, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), level, np.uint8)
    pixels[: size[0] // 2, : size[1] // 2] = (220, 30, 30)
    coarse = np.random.default_rng(list(path.name.encode())).integers(0, 255, (4, 8, 1), np.uint8)
    below = pixels[size[0] // 2 :]
    below[:] = coarse.repeat(-(-len(below) // 4), 0).repeat(-(-size[1] // 8), 1)[: len(below), : size[1]]
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    path.with_suffix(".txt").write_text("a still thing")


@pytest.mark.costly
def test_pictures_are_clips_of_one_frame_beside_videos(tmp_path: Path) -> None:
    picture(tmp_path / "in/wide.jpg", quality=95)
    picture(tmp_path / "in/upright.jpg", quality=95, exif=_turned())
    picture(tmp_path / "in/odd.png", (51, 33))
    video(tmp_path / "in/film.mp4")
    glass = np.zeros((40, 40, 4), np.uint8)
    glass[:, :20] = (255, 255, 255, 255)
    glass[:, 20:] = (255, 255, 255, 0)
    Image.fromarray(glass).save(tmp_path / "in/glass.png")
    (tmp_path / "in/glass.txt").write_text("a pane")
    buckets = {"fold": 4, "sizes": [[1, 32, 32], [1, 32, 48], [1, 48, 32], [5, 32, 32]]}
    cutting = {**CUTTING, "buckets": buckets}
    catalog, _ = run(folder(tmp_path / "in", media="both", cutting=cutting), tmp_path)
    shapes = catalog.set_index("source")[["num_frames", "height", "width"]].apply(tuple, axis=1).to_dict()
    assert shapes == {
        "film.mp4": (5, 32, 32),
        "glass.png": (1, 32, 32),
        "odd.png": (1, 48, 32),
        "upright.jpg": (1, 48, 32),
        "wide.jpg": (1, 32, 48),
    }
    stored = {row["source"]: read_clip(tmp_path / "clips" / row["file"])[0] for row in catalog.to_dict("records")}
    assert stored["glass.png"][:, :14].mean() > 245 and stored["glass.png"][:, 18:].mean() < 10
    assert stored["upright.jpg"][4, -4, 0] > 190  # a quarter turn clockwise: what was at the left is on top
    assert catalog["quality_motion"][catalog["num_frames"] == 1].isna().all()


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_broken_pictures_are_listed(tmp_path: Path) -> None:
    picture(tmp_path / "in/good.png")
    picture(tmp_path / "in/other.png", level=10)
    picture(tmp_path / "in/third.png")
    picture(tmp_path / "in/huge.png", (400, 300))
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "in/cut.jpg")
    (tmp_path / "in/cut.jpg").write_bytes((tmp_path / "in/cut.jpg").read_bytes()[:5000])
    (tmp_path / "in/text.png").write_text("hello")
    (tmp_path / "in/empty.webp").touch()
    for name in ("cut", "text", "empty"):
        (tmp_path / f"in/{name}.txt").write_text("x")
    one = {**CLIP, "num_frames": 1}
    block = {"path": str(tmp_path / "in"), "media": "images", "captions": None, "max_rejected_share": 0.9}
    catalog, _ = run(footage("folder", clip=one, **block), tmp_path)
    assert set(catalog["source"]) == {"good.png", "other.png", "third.png"}
    reasons = {"huge.png": "too_large", "cut.jpg": "truncated", "text.png": "not_image", "empty.webp": "not_image"}
    assert refused(tmp_path) == reasons


def test_pictures_without_a_form_of_one_frame_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs a form of one frame"):
        folder(tmp_path, media="images")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["png", "jpeg", "webp", "bmp", "tiff"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
    st.floats(0, 1),
)
def test_a_damaged_picture_is_read_or_has_a_reason(
    tmp_path_factory: pytest.TempPathFactory, kind: str, flips: list[tuple[float, int]], end: float
) -> None:
    stream = io.BytesIO()
    Image.fromarray(frames(1)[0]).save(stream, format=kind)
    content = bytearray(stream.getvalue())
    for place, value in flips:
        content[int(place * len(content))] = value
    path = tmp_path_factory.getbasetemp() / f"a.{kind}"
    path.write_bytes(content[: round(end * len(content))] if end < 0.9 else content)
    try:
        assert read_picture(path, Limits(max_pixels=100_000)).cover(32, 32).shape == (32, 32, 3)
    except VideoError as error:
        assert error.reason and str(error)
