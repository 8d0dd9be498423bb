"""Files that end early, files that are whole whatever they state, damage inside, and interlaced footage."""

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.data.containers import holds_video
from pipelines.data.limits import Limits, VideoError
from pipelines.data.video import Seen, probe, read_clip, read_frames, sample_pictures
from pipelines.data.whole import missing_end
from tests.data.cards import CARDS, WANTED, WITH_B, copied, numbers, write
from tests.data.sampled import sample_frames

KINDS = [
    *[(f"a.{ending}", "libx264", "yuv420p", WITH_B) for ending in ("mp4", "mov", "mkv", "avi", "ts", "flv", "f4v")],
    ("a.webm", "libvpx", "yuv420p", {"b": "2M"}),
    ("a.mpg", "mpeg2video", "yuv420p", {"b": "4M"}),
    ("a.vob", "mpeg2video", "yuv420p", {"b": "4M"}),
    ("a.wmv", "wmv2", "yuv420p", {"b": "4M"}),
    ("a.mxf", "mpeg2video", "yuv420p", {"b": "4M"}),
    ("a.rm", "rv10", "yuv420p", {"b": "2M"}),
    ("a.gif", "gif", "rgb8", {}),
    ("a.apng", "apng", "rgb24", {}),
    ("a.y4m", "rawvideo", "yuv420p", {}),
    ("b.y4m", "wrapped_avframe", "yuv422p", {}),
]


def reason(path: Path) -> str | None:
    """Why a file is refused; None: it is not."""
    try:
        list(sample_frames(path, 8.0, (32, 32)))
    except VideoError as error:
        return error.reason
    return None


@pytest.mark.parametrize(("name", "codec", "form", "options"), KINDS)
def test_a_file_cut_off_anywhere_is_truncated_and_the_whole_is_not(
    tmp_path: Path, name: str, codec: str, form: str, options: dict[str, str]
) -> None:
    path = write(tmp_path / name, CARDS, codec, form, options)
    whole = path.read_bytes()
    assert reason(path) is None
    for share in (0.05, 0.31, 0.5, 0.77, 0.93):
        cut = int(len(whole) * share)
        path.write_bytes(whole[: cut // 188 * 188 + 57 if name == "a.ts" else cut])  # between packets nothing shows
        assert reason(path) == "truncated", share


def test_an_mp4_whose_index_was_never_written_is_truncated_and_text_is_no_video(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    content = path.read_bytes()
    index = content.index(b"moov") - 4
    path.write_bytes(content[:index])
    assert reason(path) == "truncated"
    for name, text in (("a", b"hello"), ("b", b"\x00" * 5000), ("c", b"<html>" * 100), ("d", b"GIF8"), ("e", b"RIFF")):
        (tmp_path / f"{name}.mp4").write_bytes(text)
        assert reason(tmp_path / f"{name}.mp4") in ("not_video", "truncated"), name
        assert not holds_video(tmp_path / f"{name}.mp4", Limits()) or name == "d"


def test_what_stands_behind_a_whole_file_does_not_make_it_truncated(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv", "a.avi"):
        path = write(tmp_path / name, options=WITH_B)
        path.write_bytes(path.read_bytes() + b"SEFT somebody's appendix" + bytes(300))
        assert reason(path) is None, name


def test_a_stated_duration_that_is_too_long_does_not_make_a_whole_file_truncated(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", options=WITH_B)
    content = bytearray(path.read_bytes())
    at = content.index(b"mvhd") + 4 + 16  # version and flags, two times, the time scale: then the duration
    content[at : at + 4] = (int.from_bytes(content[at : at + 4], "big") * 5).to_bytes(4, "big")
    path.write_bytes(content)
    assert reason(path) is None and numbers(path, 25.0) == list(range(50))


@pytest.mark.parametrize(("lines", "length"), [(0x3F, 120_000), (0xBF, 144_000)])
def test_a_tape_ends_with_a_frame(tmp_path: Path, lines: int, length: int) -> None:
    """DV: 525 or 625 lines, as its head says."""
    path = tmp_path / "a.dv"
    path.write_bytes(b"\x1f\x07\x00" + bytes([lines]) + bytes(2 * length - 4))
    assert missing_end(path) == ""
    path.write_bytes(path.read_bytes()[:-80])
    assert missing_end(path)


def test_a_file_of_unknown_kind_does_not_say_how_long_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"nothing known" * 50)
    assert missing_end(tmp_path / "a") is None


def noisy(count: int = 40) -> list[np.ndarray]:
    """Blocks that move: damage shows."""
    blocks = np.random.default_rng(5).integers(0, 256, (8, 8, 3), np.uint8)
    return [
        np.ascontiguousarray(np.roll(np.kron(blocks, np.ones((8, 8, 1), np.uint8)), 3 * k, 1)) for k in range(count)
    ]


@pytest.mark.parametrize(
    ("codec", "ending", "form", "options", "least"),
    [
        ("libx264", "mp4", "yuv420p", {"crf": "12", "g": "20"}, 8),
        ("mpeg4", "avi", "yuv420p", {"b": "4M"}, 14),
        ("mpeg2video", "mpg", "yuv420p", {"b": "4M"}, 14),
        ("libsvtav1", "mp4", "yuv420p", {"crf": "12", "preset": "12", "svtav1-params": "lp=1"}, 3),
        ("mjpeg", "avi", "yuvj420p", {"b": "4M"}, 6),
        ("libvpx-vp9", "webm", "yuv420p", {"crf": "12", "b": "0", "cpu-used": "8", "deadline": "realtime"}, 14),
        ("libvpx", "mkv", "yuv420p", {"b": "4M", "cpu-used": "8"}, 16),
        (
            "libx265",
            "mkv",
            "yuv420p",
            {"crf": "12", "preset": "ultrafast", "x265-params": "log-level=none:pools=1"},
            16,
        ),
        (
            "libx265",
            "mp4",
            "yuv420p",
            {"crf": "12", "preset": "ultrafast", "x265-params": "log-level=none:hash=1:pools=1"},
            14,
        ),
    ],
)
def test_damage_that_the_decoder_sees_is_a_reason(
    tmp_path: Path, codec: str, ending: str, form: str, options: dict[str, str], least: int
) -> None:
    path = write(tmp_path / f"a.{ending}", noisy(), codec, form, options)
    content, refused = path.read_bytes(), 0
    assert len(list(read_frames(path))) == 40
    for trial in range(16):
        at, broken = random.Random(trial).randrange(len(content) // 4, 3 * len(content) // 4), bytearray(content)
        broken[at : at + 6] = bytes(one ^ 0x55 for one in broken[at : at + 6])
        path.write_bytes(broken)
        try:
            read_clip(path)
        except VideoError as error:
            assert error.reason == "decode_error"
            refused += 1
    assert refused >= least


def test_a_matroska_file_is_read_where_its_checksums_fit_are_absent_or_its_clusters_have_no_length(
    tmp_path: Path,
) -> None:
    for name, muxer in (("a.mkv", {}), ("b.mkv", {"write_crc32": "0"}), ("c.mkv", {"live": "1"})):
        path = write(tmp_path / name, muxer=muxer)
        assert numbers(path, 8.0) == WANTED, name


def test_a_checksum_is_compared_only_of_what_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", noisy(120), options={"crf": "8", "g": "20"}, muxer={"cluster_time_limit": "1000"})
    content = bytearray(path.read_bytes())
    content[len(content) * 9 // 10] ^= 0x55
    path.write_bytes(content)
    first = list(itertools.islice(read_frames(path), 20))
    assert len(first) == 20
    assert reason(path) == "decode_error"


def test_vp9_keeps_the_colours_that_its_container_states(tmp_path: Path) -> None:
    def pq(stream: Any) -> None:
        stream.codec_context.color_trc, stream.codec_context.color_primaries = 16, 9
        stream.codec_context.colorspace = 9

    path = write(tmp_path / "a.webm", CARDS[:5], "libvpx-vp9", "yuv420p", {"cpu-used": "8"}, mark=pq)
    seen = Seen()
    list(sample_pictures(path, 8.0, seen=seen))
    assert seen.hdr


def test_a_head_without_what_it_announces_is_truncated(tmp_path: Path) -> None:
    for name, codec, kept in (("a.wtv", "mpeg2video", 0.5), ("a.3gp", "libx264", 0.01), ("a.wmv", "wmv2", 0.01)):
        path = write(tmp_path / name, CARDS, codec, options={"b": "4M"} if codec != "libx264" else None)
        assert reason(path) is None
        path.write_bytes(path.read_bytes()[: max(40, int(path.stat().st_size * kept))])
        assert reason(path) == "truncated", name


def test_packets_that_cannot_be_read_are_a_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rm", noisy(), "rv20", options={"b": "2M"})
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half:] = bytes(len(content) - half)
    path.write_bytes(content)
    assert reason(path) in ("decode_error", "truncated")
    path = write(tmp_path / "b.obu", CARDS, "libsvtav1", options={"preset": "12", "svtav1-params": "lp=1"})
    path.write_bytes(path.read_bytes()[:-1])
    assert reason(path) == "truncated"


def test_packets_lost_from_a_transport_stream_are_a_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ts", noisy(), options={"crf": "8", "g": "40"})
    content = path.read_bytes()
    middle = len(content) // 188 // 2 * 188
    path.write_bytes(content[:middle] + content[middle + 5 * 188 :])
    assert reason(path) == "decode_error"


def test_zeros_in_place_of_frames_are_a_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", noisy(), options={"crf": "8", "g": "40"})
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    path.write_bytes(content)
    assert reason(path) == "decode_error"


def fields(number: int) -> np.ndarray:
    """A bar whose even rows are half a frame ahead of its odd ones."""
    pixels = np.full((96, 96, 3), 30, np.uint8)
    for parity in (0, 1):
        x = (2 * number + parity) * 4 % 80
        pixels[parity::2, x : x + 12] = 230
    return pixels


@pytest.mark.parametrize(
    ("name", "codec", "form", "options"),
    [
        ("a.ts", "libx264", "yuv420p", {"crf": "4", "flags": "+ildct+ilme", "x264-params": "tff=1"}),
        ("a.mpg", "mpeg2video", "yuv420p", {"b": "8M", "flags": "+ildct+ilme"}),
        ("a.mov", "prores_ks", "yuv422p10le", {"flags": "+ildct"}),
    ],
)
def test_interlaced_footage_has_no_combs(
    tmp_path: Path, name: str, codec: str, form: str, options: dict[str, str]
) -> None:
    path = write(tmp_path / name, [fields(k) for k in range(15)], codec, form, options)
    found = probe(path)
    assert found.interlaced and found.num_frames == 15
    for _, pixels in read_frames(path):
        columns = pixels[20:70, :, 0].argmax(1).astype(int)
        assert np.ptp(columns) <= 1
    assert sum(one is not None for one in sample_frames(path, 25.0, (96, 96))) == 15


def test_progressive_footage_is_left_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", CARDS[:5], "ffv1", "bgr0", {})
    assert not probe(path).interlaced
    assert all(np.array_equal(one, card) for (_, one), card in zip(read_frames(path), CARDS, strict=False))


def test_interlaced_frames_of_a_file_whose_size_changes_come_out_whole(tmp_path: Path) -> None:
    options = {"crf": "4", "flags": "+ildct+ilme", "x264-params": "tff=1"}
    one = write(tmp_path / "a.ts", [fields(k) for k in range(5)], options=options)
    two = write(tmp_path / "b.ts", [fields(k)[:64] for k in range(5)], options=options)
    (tmp_path / "c.ts").write_bytes(one.read_bytes() + two.read_bytes())
    shapes = [pixels.shape for _, pixels in read_frames(tmp_path / "c.ts")]
    assert shapes == [(96, 96, 3)] * 5 + [(64, 96, 3)] * 5


def test_a_fragmented_file_is_whole(tmp_path: Path) -> None:
    def same(place: int, packet: Any) -> bool:
        return True

    flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    path = copied(write(tmp_path / "a.mp4", options=WITH_B), tmp_path / "b.mp4", same, options=flags)
    assert numbers(path, 25.0) == list(range(50))
