"""Codecs, depths, shapes and damage: every file gives frames or a reason."""

import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.checksums import Clusters
from pipelines.data.video import Limits, VideoError, probe, read_clip, read_frames, write_mp4
from tests.data.sampled import sample_frames
from tests.data.test_video import blocks, reason, write_at


def encode(path: Path, codec: str, pixel_format: str, size: tuple[int, int] = (32, 48), **options: str) -> None:
    """Five frames, red on the left and blue on the right; ``size`` is (height, width)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8, options=options)
        stream.height, stream.width, stream.pix_fmt = *size, pixel_format
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[:, : size[1] // 2, 0] = pixels[:, size[1] // 2 :, 2] = 220
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "options"),
    [
        ("ten.mp4", "libx264", "yuv420p10le", {}),
        ("hevc.mp4", "libx265", "yuv420p10le", {"x265-params": "log-level=none:pools=1"}),
        ("vp9.webm", "libvpx-vp9", "yuv420p", {}),
        ("av1.mp4", "libsvtav1", "yuv420p", {"svtav1-params": "lp=1", "preset": "12"}),
        ("full.mov", "prores_ks", "yuv422p10le", {}),
    ],
)
def test_every_codec_and_depth_gives_eight_bit_rgb(
    tmp_path: Path, name: str, codec: str, pixel_format: str, options: dict[str, str]
) -> None:
    size = (64, 96)  # the least that SVT-AV1 encodes
    encode(tmp_path / name, codec, pixel_format, size, **options)
    stored = read_clip(tmp_path / name)
    assert stored.shape == (5, *size, 3) and stored.dtype == np.uint8
    left, right = stored[:, :, 8:40].mean((0, 1, 2)), stored[:, :, 56:88].mean((0, 1, 2))
    assert left == pytest.approx([220, 0, 0], abs=14) and right == pytest.approx([0, 0, 220], abs=14)


@pytest.mark.parametrize(
    ("codec", "pixel_format"), [("huffyuv", "yuv422p"), ("ffvhuff", "yuv422p10le"), ("asv1", "yuv420p")]
)
def test_a_stream_whose_container_lost_its_tables_is_refused(tmp_path: Path, codec: str, pixel_format: str) -> None:
    """Decoders guess them, and give noise without an error."""
    encode(tmp_path / "kept.avi", codec, pixel_format)
    assert read_clip(tmp_path / "kept.avi")[:, :, :16].mean((0, 1, 2)) == pytest.approx([220, 0, 0], abs=14)
    encode(tmp_path / "lost.wtv", codec, pixel_format)
    assert reason(tmp_path / "lost.wtv") == "decode_error"


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "noise"),
    [
        ("a.mov", "qtrle", "argb", 0),
        ("a.mov", "prores_ks", "yuva444p10le", 8),
        ("a.webm", "libvpx-vp9", "yuva420p", 8),
        ("a.webm", "libvpx", "yuva420p", 8),
    ],
)
def test_what_is_transparent_is_black(tmp_path: Path, name: str, codec: str, pixel_format: str, noise: int) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8, options={"auto-alt-ref": "0"} if "vpx" in codec else {})
        stream.width, stream.height, stream.pix_fmt = 48, 32, pixel_format
        pixels = np.full((32, 48, 4), 200, np.uint8)
        pixels[:, :24, 3], pixels[:, 24:, 3] = 255, 0
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        container.mux(stream.encode(None))
    stored = read_clip(path)
    assert len(stored) == 3
    assert np.abs(stored[:, :, :20].astype(int) - 200).max() <= noise and stored[:, :, 28:].max() <= noise
    sampled = next(sample_frames(path, 8.0, (16, 24)))
    assert sampled is not None and sampled[:, :10].min() > 190 and sampled[:, 14:].max() < 10


@pytest.mark.parametrize("size", [(33, 47), (17, 16), (1, 300)])
def test_odd_and_thin_sizes_are_read_or_refused_with_a_reason(tmp_path: Path, size: tuple[int, int]) -> None:
    encode(tmp_path / "a.mkv", "ffv1", "bgr0", size)
    assert read_clip(tmp_path / "a.mkv").shape == (5, *size, 3)
    if size[0] == 1:
        with pytest.raises(VideoError) as caught:
            list(sample_frames(tmp_path / "a.mkv", 8.0, (32, 32)))
        assert caught.value.reason == "too_elongated"
    else:
        assert len([frame for frame in sample_frames(tmp_path / "a.mkv", 8.0, (32, 32)) if frame is not None]) == 5


@pytest.mark.parametrize(("aspect", "expected"), [(Fraction(2), 96), (Fraction(1, 2), 24), (Fraction(16, 11), 70)])
def test_pixels_become_square(tmp_path: Path, aspect: Fraction, expected: int) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 48, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    assert probe(tmp_path / "a.mp4").width == expected


def test_bytes_and_decoding_time_are_limited_too(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", blocks(17), 8.0)
    assert reason(tmp_path / "a.mp4", Limits(max_bytes=100)) == "too_many_bytes"
    assert reason(tmp_path / "a.mp4", Limits(max_decode_seconds=1e-9)) == "too_slow"


def test_the_time_of_whoever_reads_is_not_decoding_time(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", blocks(17), 8.0)
    for _ in read_frames(tmp_path / "a.mp4", Limits(max_decode_seconds=0.3)):
        until = time.process_time() + 0.04
        while time.process_time() < until:
            pass


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_mp4(folder / "a.mp4", blocks(9), 8.0)
    write_at(folder / "a.webm", [60 * k for k in range(4)], [40 * k for k in range(4)], codec="libvpx")
    write_at(folder / "a.mkv", [60 * k for k in range(4)], [40 * k for k in range(4)], rotation=90)
    return folder


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["a.mp4", "a.webm", "a.mkv"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
    st.floats(0, 1),
)
def test_a_damaged_file_gives_frames_or_a_reason_and_nothing_else(
    made: Path,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    flips: list[tuple[float, int]],
    end: float,
) -> None:
    content = bytearray((made / name).read_bytes())
    for place, value in flips:
        content[int(place * len(content))] = value
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content[: round(end * len(content))] if end < 0.9 else content)
    limits = Limits(max_pixels=100_000, max_frames=100, max_seconds=60.0, max_decode_seconds=10.0)
    try:
        for frame in sample_frames(path, 8.0, (32, 32), limits):
            assert frame is None or frame.shape == (32, 32, 3)
    except VideoError as error:
        assert error.reason and str(error)


@pytest.mark.parametrize("ids", [("1a45dfa3",), ("18538067", "1f43b675")], ids=["head", "cluster"])
def test_an_element_that_ends_where_no_file_can_has_no_checksum(tmp_path: Path, ids: tuple[str, ...]) -> None:
    (tmp_path / "a.mkv").write_bytes(b"".join(bytes.fromhex(name) + b"\x01" + b"\x7f" * 7 for name in ids) + bytes(90))
    clusters = Clusters(tmp_path / "a.mkv")
    clusters.check(60)
    clusters.check(70)


def test_of_several_streams_the_largest_is_read(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = []
        for width in (32, 64, 48):
            stream = container.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = width, 32, "yuv420p"
            streams.append((stream, width))
        for _ in range(5):
            for stream, width in streams:
                frame = av.VideoFrame.from_ndarray(np.zeros((32, width, 3), np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
        for stream, _ in streams:
            container.mux(stream.encode(None))
    assert probe(tmp_path / "a.mkv").width == 64
