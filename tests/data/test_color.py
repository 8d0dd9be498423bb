"""Colours from source to clip to reader: exact conversions, tags, the rule for what is untagged, HDR, orientation."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data import color
from pipelines.data.limits import VideoError
from pipelines.data.upright import ALL, nearest
from pipelines.data.video import probe, read_clip, read_frames, write_mp4
from tests.data.cards import card, number, psnr, smooth, write
from tests.data.sampled import sample_frames


def test_soft_colours_survive_the_way_from_source_to_clip_to_reader(tmp_path: Path) -> None:
    truth = np.stack(smooth(4, 64))
    large = [np.kron(one, np.ones((4, 4, 1), np.uint8)) for one in truth]
    path = write(tmp_path / "a.mp4", large, options={"crf": "2", "preset": "veryfast"})
    seen = np.stack([one for one in sample_frames(path, 25.0, (64, 64)) if one is not None])
    write_mp4(tmp_path / "clip.mp4", seen, 25.0, crf=2)
    stored = read_clip(tmp_path / "clip.mp4")
    assert psnr(seen, truth) > 45 and abs(float(seen.mean() - truth.mean())) < 0.15
    assert psnr(stored, truth) > 43 and abs(float(stored.mean() - truth.mean())) < 0.6


@pytest.mark.parametrize("level", [0, 1, 128, 254, 255])
def test_grey_stays_grey_and_white_stays_white(tmp_path: Path, level: int) -> None:
    write_mp4(tmp_path / "clip.mp4", np.full((3, 32, 32, 3), level, np.uint8), 8.0, crf=0)
    stored = read_clip(tmp_path / "clip.mp4").astype(int)
    assert np.abs(stored - level).max() <= 1
    assert level != 255 or stored.min() == 255


def test_columns_do_not_share_a_colour(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", np.stack(smooth(1, 64)), 8.0, crf=0)
    stored = read_clip(tmp_path / "clip.mp4")[0].astype(int)
    chroma = stored[..., 0] - stored[..., 1]
    inside, between = (
        np.abs(chroma[:, 1::2] - chroma[:, ::2]).mean(),
        np.abs(chroma[:, 2::2] - chroma[:, 1:-1:2]).mean(),
    )
    assert 0.6 < inside / between < 1.6


def test_a_clip_says_what_its_colours_are(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", np.zeros((3, 32, 32, 3), np.uint8), 8.0)
    with av.open(str(tmp_path / "clip.mp4")) as file:
        coder = file.streams.video[0].codec_context
        tags = coder.colorspace, coder.color_trc, coder.color_primaries, coder.color_range
    assert tags == (1, ColorTrc.BT709, ColorPrimaries.BT709, ColorRange.MPEG)


def coded(path: Path, size: tuple[int, int], space: Colorspace, codec: str = "libx264", tag: int | None = None) -> Path:
    """Orange, converted by the matrix ``space`` and tagged as told."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[:] = (220, 120, 30)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=8, options={"crf": "4"} if codec == "libx264" else {"b": "8M"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        if tag is not None:
            stream.codec_context.colorspace = tag
        for _ in range(2):
            frame = VideoReformatter().reformat(
                av.VideoFrame.from_ndarray(pixels, format="rgb24"),
                format="yuv420p",
                dst_colorspace=space,
                dst_color_range=ColorRange.MPEG,
            )
            frame.colorspace = 2 if tag is None else tag
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("size", "space", "codec", "tag"),
    [
        ((480, 640), Colorspace.ITU601, "libx264", None),
        ((720, 960), Colorspace.ITU709, "libx264", None),
        ((96, 1280), Colorspace.ITU709, "libx264", None),
        ((1280, 720), Colorspace.ITU709, "libx264", None),
        ((720, 960), Colorspace.ITU601, "libvpx", None),
        ((64, 96), Colorspace.ITU709, "libx264", 1),
        ((720, 960), Colorspace.ITU601, "libx264", 6),
        ((64, 96), Colorspace.BT2020, "libx264", 9),
        ((64, 96), Colorspace.SMPTE240M, "libx264", 7),
    ],
)
def test_tags_are_believed_and_untagged_is_bt709_when_large_and_bt601_when_small(
    tmp_path: Path, size: tuple[int, int], space: Colorspace, codec: str, tag: int | None
) -> None:
    path = coded(tmp_path / ("a.webm" if codec == "libvpx" else "a.mkv"), size, space, codec, tag)
    _, pixels = next(read_frames(path))
    assert np.abs(pixels.reshape(-1, 3).mean(0) - (220, 120, 30)).max() < 3


def test_a_matrix_that_is_not_known_has_a_reason(tmp_path: Path) -> None:
    path = coded(tmp_path / "a.mp4", (64, 96), Colorspace.ITU709, tag=8)
    with pytest.raises(VideoError) as caught:
        read_clip(path)
    assert caught.value.reason == "unknown_color"


def test_full_range_is_read_as_full_range(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", [np.full((32, 32, 3), 250, np.uint8)] * 3, "mjpeg", "yuvj420p", {"b": "4M"})
    assert abs(float(read_clip(path).mean()) - 250) < 2


def bright(path: Path, nits: np.ndarray) -> Path:
    """Grey stripes of so many nits, PQ in BT.2020, 10 bits."""
    codes = np.round(color._to_pq(nits) * 65535).astype(np.uint16)
    pixels = np.repeat(np.repeat(codes[None, :, None], 16, 1), 3, 2).repeat(32, 0)

    def tagged(stream: Any) -> None:
        coder = stream.codec_context
        coder.colorspace, coder.color_trc, coder.color_primaries = 9, ColorTrc.SMPTE2084, ColorPrimaries.BT2020

    with av.open(str(path), "w") as file:
        options = {"x265-params": "log-level=none:pools=1:lossless=1"}
        stream = file.add_stream("libx265", rate=8, options=options)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv420p10le"
        tagged(stream)
        frame = VideoReformatter().reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb48le"),
            format="yuv420p10le",
            dst_colorspace=Colorspace.BT2020,
            dst_color_range=ColorRange.MPEG,
        )
        frame.colorspace, frame.color_trc, frame.color_primaries = 9, ColorTrc.SMPTE2084, ColorPrimaries.BT2020
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def test_hdr_is_tone_mapped(tmp_path: Path) -> None:
    nits = np.array([0.0, 1, 5, 20, 50, 100, 203, 400, 700, 1000, 4000])
    pixels = read_clip(bright(tmp_path / "a.mp4", nits))[0].astype(int)
    levels = pixels[16, 8::16]
    assert np.ptp(levels, axis=1).max() <= 2
    grey = levels.mean(1)
    assert (np.diff(grey[:9]) > 0).all() and grey[0] < 3 and grey[9] > 250 and grey[10] > 250
    for place in (1, 2, 3):  # below the knee light stays what it is
        assert abs(grey[place] - 255 * (nits[place] / 203) ** (1 / 2.4)) < 3
    assert 190 < grey[6] < 245


def test_hlg_keeps_its_order_and_its_grey() -> None:
    codes = np.linspace(0, 65535, 64).astype(np.uint16)[None, :, None].repeat(3, 2)
    levels = color.tone_mapped(codes, ColorTrc.ARIB_STD_B67)[0].astype(int)
    assert (np.diff(levels[:, 1]) >= 0).all() and levels[0].max() == 0 and levels[-1].min() >= 254
    assert np.ptp(levels, axis=1).max() <= 1


def test_colours_within_bt709_keep_their_hue() -> None:
    linear = np.array([0.05, 0.02, 0.01]) @ np.linalg.inv(color.TO_BT709.astype(float)).T * 203
    codes = np.round(color._to_pq(linear) * 65535).astype(np.uint16)[None, None]
    shown = color.tone_mapped(codes, ColorTrc.SMPTE2084)[0, 0] / 255.0
    assert shown**2.4 == pytest.approx([0.05, 0.02, 0.01], rel=0.08)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", [{}, {"hflip": True}, {"vflip": True}])
def test_mirrored_and_turned_footage_is_upright(tmp_path: Path, degrees: int, flip: dict[str, bool]) -> None:
    pixels = card(0b10110)
    path = write(tmp_path / "a.mp4", [pixels] * 3, mark=lambda stream: stream.set_display_rotation(degrees, **flip))
    with av.open(str(path)) as file:
        frame = next(file.decode(video=0))
        held = [bytes(one) for one in frame.side_data if one.type.name == "DISPLAYMATRIX"]
    matrix = np.frombuffer(held[0], np.int32) if held else np.array([65536, 0, 0, 0, 65536])
    a, b, _, c, d = (matrix[:5] / 65536).round().astype(int)
    upright = np.zeros_like(pixels)
    for y in range(64):
        for x in range(64):  # about the centre, y downwards, as ISO/IEC 14496-12 maps places
            u, v = 2 * x - 63, 2 * y - 63
            upright[(b * u + d * v + 63) // 2, (a * u + c * v + 63) // 2] = pixels[y, x]
    found = read_clip(path)[0]
    assert np.abs(found.astype(int) - upright).mean() < 6
    assert probe(path).mirrored == bool(flip)
    assert degrees or flip or number(found) == 0b10110


@given(st.integers(0, 7), st.floats(-30, 30), st.floats(0.2, 5))
def test_any_matrix_is_the_nearest_way_to_lay_a_frame(place: int, degrees: float, scale: float) -> None:
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    assert nearest(turn @ ALL[place].linear * scale) == ALL[place]


@pytest.mark.parametrize("matrix", [np.zeros((2, 2)), np.array([[1, 0], [0, 0]])])
def test_a_matrix_that_maps_nothing_leaves_the_frame_as_stored(matrix: np.ndarray) -> None:
    assert nearest(matrix) == ALL[0]
