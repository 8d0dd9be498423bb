"""Clips of one's own are read by a shorter way, which gives the same pixels or nothing."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.data.video import VideoError, read_clip, write_mp4
from pipelines.data.written import read_written


def pixels(num_frames: int, height: int, width: int) -> np.ndarray:
    ground = np.random.default_rng(num_frames).integers(0, 255, (num_frames, 4, 5, 3))
    tall, wide = -(-height // 4), -(-width // 5)
    return ground.repeat(tall, 1).repeat(wide, 2)[:, :height, :width].astype(np.uint8)


def rewrapped(path: Path, made: Path, **changes: object) -> Path:
    """The packets of a file in another container, or with something else changed."""
    with av.open(str(path)) as source, av.open(str(made), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.dts is None or number == changes.get("without"):
                continue
            packet.stream = stream
            out.mux(packet)
    return made


@pytest.mark.parametrize("form", [(1, 16, 16), (17, 64, 64), (5, 48, 70), (9, 34, 18)])
def test_what_was_written_is_read_back_as_any_video_is(tmp_path: Path, form: tuple[int, int, int]):
    write_mp4(tmp_path / "clip.mp4", pixels(*form), 8.0, {"title": "a"})
    found = read_written(tmp_path / "clip.mp4", *form)
    assert found is not None
    assert np.array_equal(found, read_clip(tmp_path / "clip.mp4"))
    assert np.moveaxis(found, -1, 0).flags.c_contiguous, "channels lie first, as a network takes them"


@pytest.mark.parametrize("stated", [(16, 64, 64), (18, 64, 64), (17, 32, 64), (17, 64, 62)])
def test_another_number_or_size_of_frames_is_no_file_of_ours(tmp_path: Path, stated: tuple[int, int, int]):
    write_mp4(tmp_path / "clip.mp4", pixels(17, 64, 64), 8.0)
    assert read_written(tmp_path / "clip.mp4", *stated) is None


def test_what_is_turned_cut_or_in_another_container_is_left_to_the_longer_way(tmp_path: Path):
    clip = tmp_path / "clip.mp4"
    write_mp4(clip, pixels(9, 32, 32), 8.0)
    assert read_written(rewrapped(clip, tmp_path / "clip.mkv"), 9, 32, 32) is None
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:-40])
    assert read_written(tmp_path / "cut.mp4", 9, 32, 32) is None
    assert read_written(rewrapped(clip, tmp_path / "lost.mp4", without=4), 9, 32, 32) is None
    assert read_written(tmp_path / "none.mp4", 9, 32, 32) is None
    matrix = bytes.fromhex("00010000" + "00000000" * 3 + "00010000" + "00000000" * 3 + "40000000")
    turned = bytes.fromhex("00000000" + "00010000" + "00000000" + "ffff0000" + "00000000" * 4 + "40000000")
    content = clip.read_bytes()
    place = content.index(matrix, content.index(b"tkhd"))
    (tmp_path / "turned.mp4").write_bytes(content[:place] + turned + content[place + len(matrix) :])
    assert not np.array_equal(read_clip(tmp_path / "turned.mp4"), read_clip(clip))
    assert read_written(tmp_path / "turned.mp4", 9, 32, 32) is None


def test_another_codec_is_left_to_the_longer_way(tmp_path: Path):
    with av.open(str(tmp_path / "clip.mp4"), "w") as out:
        stream = out.add_stream("mpeg4", rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for frame in pixels(4, 32, 32):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    assert read_written(tmp_path / "clip.mp4", 4, 32, 32) is None
    assert len(read_clip(tmp_path / "clip.mp4")) == 4


def test_a_damaged_file_never_gives_other_pixels_than_the_longer_way(tmp_path: Path):
    write_mp4(tmp_path / "clip.mp4", pixels(9, 32, 32), 8.0)
    content = (tmp_path / "clip.mp4").read_bytes()
    random, refused = np.random.default_rng(0), 0
    for _ in range(40):
        place = int(random.integers(len(content) // 2, len(content)))
        damaged = tmp_path / "damaged.mp4"
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
        found = read_written(damaged, 9, 32, 32)
        try:
            wanted = read_clip(damaged)
        except VideoError:
            assert found is None
            refused += 1
            continue
        assert found is None or np.array_equal(found, wanted)
    assert refused
