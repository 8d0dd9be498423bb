"""Times, whatever containers do to them: every frame is the one nearest to its time, and none is lost."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipelines.data.decoding import Film
from pipelines.data.limits import Limits
from pipelines.data.resample import nearest_in_time
from pipelines.data.timeline import Timeline
from pipelines.data.video import Seen, read_frames, sample_pictures
from tests.data.cards import CARDS, WANTED, WITH_B, X264, card, copied, number, numbers, write

QUIET = {"x265-params": "log-level=none:pools=1", "crf": "4"}


@pytest.mark.parametrize(
    ("name", "codec", "form", "options"),
    [
        *[
            (f"a.{ending}", "libx264", "yuv420p", WITH_B)
            for ending in ("mp4", "mov", "mkv", "avi", "ts", "m2ts", "flv")
        ],
        ("a.h264", "libx264", "yuv420p", WITH_B),
        ("a.hevc", "libx265", "yuv420p", QUIET),
        ("a.mp4", "libx265", "yuv420p", QUIET),
        ("a.mpg", "mpeg2video", "yuv420p", {"b": "4M", "bf": "2"}),
        ("a.vob", "mpeg2video", "yuv420p", {"b": "4M", "bf": "2"}),
        ("a.m2v", "mpeg2video", "yuv420p", {"b": "4M", "bf": "2"}),
        ("a.m1v", "mpeg1video", "yuv420p", {"b": "4M"}),
        ("b.m1v", "mpeg1video", "yuv420p", {"b": "4M", "bf": "2"}),
        ("c.mov", "tiff", "rgb24", {}),
        ("a.mxf", "mpeg2video", "yuv420p", {"b": "4M", "bf": "2"}),
        ("a.asf", "libx264", "yuv420p", WITH_B),
        ("a.mpg", "libx264", "yuv444p10le", WITH_B),
        ("a.mpg", "libx264", "yuv420p", WITH_B),
        ("a.avi", "mpeg4", "yuv420p", {"b": "4M", "bf": "2"}),
        ("a.avi", "mjpeg", "yuvj420p", {"b": "8M"}),
        ("a.wmv", "wmv2", "yuv420p", {"b": "4M"}),
        ("a.webm", "libvpx", "yuv420p", {"b": "2M"}),
        ("a.gif", "gif", "rgb8", {}),
        ("a.apng", "apng", "rgb24", {}),
    ],
)
def test_every_container_gives_every_frame_at_its_time(
    tmp_path: Path, name: str, codec: str, form: str, options: dict[str, str]
) -> None:
    path = write(tmp_path / name, CARDS, codec, form, options)
    assert numbers(path, 25.0) == list(range(50))
    assert numbers(path) == WANTED


@pytest.mark.parametrize(("name", "first"), [("a.ts", 25 * 3600), ("a.mkv", 2500), ("a.mp4", 2500), ("a.mkv", -10)])
def test_a_late_or_early_begin_is_the_begin(tmp_path: Path, name: str, first: int) -> None:
    assert numbers(write(tmp_path / name, options=WITH_B, first=first)) == WANTED


def test_the_clock_of_a_transport_stream_may_wrap_around(tmp_path: Path) -> None:
    def near_the_end(packet: Any) -> None:
        late = int((2**33 / 90000 - 1.2) * 25)
        packet.pts, packet.dts = packet.pts + late, packet.dts + late

    path = write(tmp_path / "a.ts", options=WITH_B, shift=near_the_end, muxer={"mpegts_copyts": "1"})
    assert numbers(path) == WANTED


@pytest.mark.parametrize(("ending", "codec"), [("ts", "libx264"), ("mpg", "mpeg2video")])
def test_recordings_put_one_behind_another_go_on(tmp_path: Path, ending: str, codec: str) -> None:
    options = WITH_B if codec == "libx264" else {"b": "4M", "bf": "2"}
    one = write(tmp_path / f"a.{ending}", CARDS, codec, options=options).read_bytes()
    (tmp_path / f"b.{ending}").write_bytes(one + one)
    assert numbers(tmp_path / f"b.{ending}", 25.0) == [*range(50), *range(50)]


def test_a_jump_is_a_gap_in_a_file_with_an_index_and_a_new_begin_in_a_stream(tmp_path: Path) -> None:
    def later(place: int, packet: Any) -> bool:
        if place >= 25:
            packet.pts, packet.dts = packet.pts + 20 * 90000, packet.dts + 20 * 90000
        return True

    source = write(tmp_path / "a.ts", options={"crf": "4", "bf": "0", "preset": "veryfast"})
    assert numbers(copied(source, tmp_path / "b.ts", later), 25.0) == list(range(50))
    found = numbers(copied(source, tmp_path / "b.mkv", later), 25.0)
    assert [one for one in found if one is not None] == list(range(50)) and found.count(None) == 20 * 25


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_times_of_decoding_in_place_of_times_of_showing_are_put_in_order(tmp_path: Path, ending: str) -> None:
    def of_decoding(place: int, packet: Any) -> bool:
        packet.pts = packet.dts = place * 512
        return True

    source = write(tmp_path / "a.mp4", options=WITH_B)
    with av.open(str(source)) as file:
        assert file.streams.video[0].time_base == Fraction(1, 12800)
    assert numbers(copied(source, tmp_path / f"b.{ending}", of_decoding), 25.0) == list(range(50))


@pytest.mark.parametrize(("codec", "key"), [("libx264", "x264-params"), ("libx265", "x265-params")])
def test_a_recording_that_begins_within_a_group_begins_at_its_first_key_frame(
    tmp_path: Path, codec: str, key: str
) -> None:
    options = {"crf": "4", "preset": "veryfast", key: "log-level=none:keyint=25:open-gop=1:bframes=3"}
    source = write(tmp_path / "a.ts", CARDS, codec, options=options)
    assert numbers(copied(source, tmp_path / "b.ts", lambda place, _: place >= 10), 25.0) == list(range(25, 50))


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
@pytest.mark.parametrize(("same", "shown"), [((20, 21), 20.5), ((20, 21, 22), 20 + 1 / 3), ((48, 49), 49.0)])
def test_frames_of_one_time_share_what_is_left_until_the_next(
    tmp_path: Path, codec: str, same: tuple[int, ...], shown: float
) -> None:
    options, form = ({**X264, "bf": "0"}, "yuv420p") if codec == "libx264" else ({"b": "8M"}, "yuvj420p")

    def change(place: int, packet: Any) -> bool:
        if place in same:
            packet.pts = packet.dts = same[0] * packet.time_base.denominator // 25
        elif place > same[-1]:
            packet.pts = packet.dts = (place - len(same) + 1) * packet.time_base.denominator // 25
        return True

    path = copied(write(tmp_path / "a.mkv", CARDS, codec, form, options), tmp_path / "b.mkv", change)
    frames = Film(path, Limits()).frames()
    found = [(seconds * 25, number(frame.to_ndarray(format="rgb24"))) for seconds, frame in frames]
    assert [one for _, one in found] == list(range(50))
    assert found[same[1]][0] == pytest.approx(shown, abs=0.03)
    assert found[-1][0] == pytest.approx(50 - len(same) if same[-1] < 49 else 49, abs=0.03)
    assert set(numbers(path, 100.0)) - {None} == set(range(50))


def test_an_edit_list_says_what_is_shown(tmp_path: Path) -> None:
    assert numbers(write(tmp_path / "a.mp4", options=WITH_B, first=-10), 25.0) == list(range(10, 50))


def test_without_any_time_or_rate_there_is_no_time(tmp_path: Path) -> None:
    for step, found in ((None, [None, None]), (0.04, [0.0, 0.04])):
        timeline = Timeline("h264", 1.0, step, restarts=False, intra=False)
        assert [timeline.seconds(av.VideoFrame(16, 16)) for _ in range(2)] == found
        assert timeline.is_known == (step is not None)


@pytest.mark.parametrize("beside", ["sound first", "sound", "klv"])
def test_streams_beside_the_video_take_nothing_from_it(tmp_path: Path, beside: str) -> None:
    path = tmp_path / ("a.ts" if beside == "klv" else "a.mp4")
    with av.open(str(path), "w") as file:
        sound = file.add_stream("aac", rate=48000, layout="mono") if beside == "sound first" else None
        stream = file.add_stream("libx264", rate=25, options=WITH_B)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        sound = file.add_stream("aac", rate=48000, layout="mono") if beside == "sound" else sound
        data = file.add_data_stream("klv") if beside == "klv" else None
        for place, pixels in enumerate(CARDS):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = place, Fraction(1, 25)
            file.mux(stream.encode(frame))
            if data is not None and place % 10 == 0:
                packet = av.Packet(bytes.fromhex("060e2b34020b01010e01030101000000") + bytes(21))
                packet.stream, packet.time_base = data, Fraction(1, 90000)
                packet.pts = packet.dts = 3600 * place
                file.mux(packet)
        for place in range(90 if sound is not None else 0):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 48000, 1024 * place
            assert sound is not None
            file.mux(sound.encode(silence))
        if sound is not None:
            file.mux(sound.encode(None))
        file.mux(stream.encode(None))
    assert numbers(path, 25.0) == list(range(50))


def test_subtitles_beside_the_video_take_nothing_from_it(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options=WITH_B)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        file.add_attachment("font.ttf", "font/ttf", bytes(100))
        for place, pixels in enumerate(CARDS):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = place, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert numbers(path, 25.0) == list(range(50))


@pytest.mark.parametrize(
    ("name", "codec", "form", "options"),
    [
        ("a.mp4", "libx264", "yuv420p", {"preset": "veryfast", "x264-params": "bframes=3:b-adapt=0"}),
        ("a.mp4", "libx265", "yuv420p", QUIET),
        ("a.avi", "mpeg4", "yuv420p", {"b": "1M", "bf": "2"}),
        ("a.mov", "mjpeg", "yuvj420p", {"b": "4M"}),
    ],
)
def test_leaving_out_frames_that_nobody_wants_changes_no_picture(
    tmp_path: Path, name: str, codec: str, form: str, options: dict[str, str]
) -> None:
    noisy = np.random.default_rng(0).integers(0, 120, (50, 64, 64, 3), np.uint8)
    path = write(tmp_path / name, [one // 2 + card(k) // 2 for k, one in enumerate(noisy)], codec, form, options)
    film, decoded = Film(path, Limits(), 8.0), 0
    for _ in film.frames():
        decoded += 1
    assert decoded < 50
    every = list(nearest_in_time(read_frames(path), 8.0))
    some = [None if one is None else one.pixels() for one in sample_pictures(path, 8.0)]
    assert len(every) == len(some) == 17
    assert all(a is not None and b is not None and np.array_equal(a, b) for a, b in zip(every, some, strict=True))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_a_late_start_gives_the_pictures_of_the_whole(tmp_path: Path, name: str) -> None:
    frames = [card(k % 256) for k in range(400)]
    path = write(tmp_path / name, frames, options={**WITH_B, "g": "40"})
    whole = numbers(path)
    for start in (0, 3, 90, 100, len(whole) - 1, len(whole) + 20):
        found = sample_pictures(path, 8.0, start=start)
        assert [None if one is None else number(one.cover(64, 64)) for one in found] == whole[start:]


OPEN = {"x265-params": f"{QUIET['x265-params']}:keyint=40:min-keyint=40:scenecut=0", "crf": "4"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}


@pytest.mark.parametrize(
    ("codec", "options", "muxer"),
    [
        ("libx265", OPEN, {}),
        ("libx265", OPEN, FRAGMENTS),
        ("libx264", {**WITH_B, "g": "40", "x264-params": "open-gop=1:scenecut=0:b-adapt=0"}, {}),
        ("libx264", {**WITH_B, "g": "40", "x264-params": "scenecut=0:b-adapt=0"}, FRAGMENTS),
    ],
)
def test_a_late_start_just_before_a_key_frame_that_is_decoded_first_loses_nothing(
    tmp_path: Path, codec: str, options: dict[str, str], muxer: dict[str, str]
) -> None:
    path = write(tmp_path / "a.mp4", [card(k % 256) for k in range(330)], codec, options=options, muxer=muxer)
    whole = numbers(path)
    for start in (85, 86, 89, 102):  # frames 266, 269, 278 and 319; key frames are every 40
        found = sample_pictures(path, 8.0, start=start)
        assert [None if one is None else number(one.cover(64, 64)) for one in found] == whole[start:]


def test_a_late_start_decodes_little(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", [card(k % 256) for k in range(500)], options={**WITH_B, "g": "25"})
    film = Film(path, Limits(), 8.0, 18.0)
    assert sum(1 for _ in film.frames()) < 60


def test_a_screen_recording_shows_its_frame_on_and_the_gaps_are_counted(tmp_path: Path) -> None:
    def sparse(place: int, packet: Any) -> bool:
        packet.pts = packet.dts = place * 2000
        return True

    source = write(tmp_path / "a.mp4", CARDS[:3], options={"crf": "4", "bf": "0", "preset": "veryfast"})
    path = copied(source, tmp_path / "b.mkv", sparse)
    with av.open(str(path)) as file:
        seconds = [float(packet.pts * packet.time_base) for packet in file.demux(video=0) if packet.pts is not None]
    gap = seconds[1]
    seen, held = Seen(), Seen()
    found = [one is None for one in sample_pictures(path, 32.0, seen=seen)]
    assert seen.gaps == sum(found) > 0 and seen.held == 0
    shown = [one.seconds for one in sample_pictures(path, 32.0, None, gap, held) if one is not None]
    assert held.gaps == 0 and held.held > 0
    for k, at in enumerate(shown[: int(2 * gap * 32)]):
        assert at <= k / 32 + 0.5 / 32 + 1e-3 and k / 32 - at <= gap + 1e-3
