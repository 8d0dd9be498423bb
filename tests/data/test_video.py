"""Video files: what is written is read back, what is no video is refused with a reason, headers are not believed."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.data.video import Limits, VideoError, probe, read_clip, read_frames, write_mp4
from tests.data.sampled import sample_frames


def blocks(num_frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Frames that differ in each quarter and over time, smooth enough for chroma at half resolution."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    frames[:, : height // 2] = (200, 40, 40)
    frames[:, height // 2 :, : width // 2] = (40, 60, 200)
    frames[:, height // 2 :, width // 2 :] += np.linspace(20, 230, num_frames).astype(np.uint8)[:, None, None, None]
    return frames


def write_at(
    path: Path, levels: Sequence[int], ticks: Sequence[int], rotation: int = 0, codec: str = "libx264"
) -> None:
    """Grey frames at the given times in milliseconds, with the rotation as side data."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for level, tick in zip(levels, ticks, strict=True):
            pixels = np.full((32, 48, 3), level, np.uint8)
            pixels[:8, :12] = 255 - level
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def reason(path: Path, limits: Limits | None = None) -> str:
    with pytest.raises(VideoError) as caught:
        read_clip(path, limits)
    assert str(caught.value)
    return caught.value.reason


def test_a_clip_is_read_back_as_written_up_to_the_codec(tmp_path: Path) -> None:
    frames = blocks(17)
    write_mp4(tmp_path / "a.mp4", frames, 8.0, {"title": "a red square"})
    stored = read_clip(tmp_path / "a.mp4")
    assert stored.shape == frames.shape and stored.dtype == np.uint8
    assert np.abs(stored.astype(int) - frames).mean() < 3
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.metadata["title"] == "a red square"
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_mp4(tmp_path / name, blocks(5), 8.0, {"comment": "x"})
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_writing_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_mp4(tmp_path / "a.mp4", blocks(5), 8.0)
    read_clip(tmp_path / "a.mp4")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shape", [(5, 31, 48, 3), (5, 32, 48), (0, 32, 48, 3)])
def test_writing_refuses_what_is_no_even_sized_video(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a\.mp4"):
        write_mp4(tmp_path / "a.mp4", np.zeros(shape, np.uint8), 8.0)
    assert not (tmp_path / "a.mp4").exists()


def test_a_webm_whose_header_counts_no_frames_is_counted_by_decoding(tmp_path: Path) -> None:
    write_at(tmp_path / "a.webm", [100] * 12, [k * 40 for k in range(12)], codec="libvpx")
    with av.open(str(tmp_path / "a.webm")) as container:
        assert container.streams.video[0].frames == 0
    found = probe(tmp_path / "a.webm")
    assert (found.num_frames, found.width, found.height, found.codec) == (12, 48, 32, "vp8")
    assert found.frame_rate == pytest.approx(25.0)
    assert found.seconds == pytest.approx(0.48)
    assert not found.variable_rate


def test_a_rate_rounded_to_milliseconds_is_constant_and_a_stutter_is_not(tmp_path: Path) -> None:
    write_at(tmp_path / "rounded.mkv", [100] * 20, [round(k * 1000 / 30) for k in range(20)])
    write_at(tmp_path / "stutter.mkv", [100] * 20, [k * 33 + (90 if k > 10 else 0) for k in range(20)])
    assert not probe(tmp_path / "rounded.mkv").variable_rate
    assert probe(tmp_path / "stutter.mkv").variable_rate


def test_a_sampled_frame_is_the_one_nearest_to_its_time_at_a_variable_rate(tmp_path: Path) -> None:
    ticks = [0, 30, 90, 120, 260, 270, 370, 500, 530, 600, 640, 740, 750, 880, 1000]
    levels = [20 + 15 * k for k in range(len(ticks))]
    write_at(tmp_path / "a.mkv", levels, ticks)
    for k, frame in enumerate(sample_frames(tmp_path / "a.mkv", 8.0, (32, 48))):
        assert frame is not None
        nearest = int(np.argmin([abs(tick - k * 125) for tick in ticks]))
        assert abs(ticks[nearest] - k * 125) <= 63
        assert abs(int(frame[20, 30, 0]) - levels[nearest]) <= 4


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_frames_are_turned_upright(tmp_path: Path, rotation: int) -> None:
    write_at(tmp_path / "a.mp4", [40] * 3, [0, 33, 66], rotation)
    plain = np.full((32, 48), 40)
    plain[:8, :12] = 215
    upright = np.rot90(plain, rotation // 90)
    stored = read_clip(tmp_path / "a.mp4")[0, :, :, 0].astype(int)
    assert stored.shape == upright.shape
    assert np.abs(stored - upright).mean() < 6
    found = probe(tmp_path / "a.mp4")
    assert (found.height, found.width) == upright.shape


def test_sampling_covers_the_wanted_size_and_crops_about_the_centre(tmp_path: Path) -> None:
    frames = np.zeros((3, 40, 120, 3), np.uint8)
    frames[:, :, 40:80] = 220
    write_mp4(tmp_path / "a.mp4", frames, 8.0)
    sampled = list(sample_frames(tmp_path / "a.mp4", 8.0, (20, 20)))
    assert len(sampled) == 3
    assert sampled[0] is not None and sampled[0].shape == (20, 20, 3)
    assert sampled[0].mean() > 205


def test_a_file_that_is_no_video_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").touch()
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:{tmp_path}/real.mp4\n#EXT-X-ENDLIST\n"
    (tmp_path / "playlist.mp4").write_text(playlist)
    write_mp4(tmp_path / "real.mp4", blocks(5), 8.0)
    assert [reason(tmp_path / f"{name}.mp4") for name in ("text", "empty", "playlist")] == ["not_video"] * 3
    assert reason(tmp_path / "none.mp4") == "missing"


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert reason(tmp_path / "a.mp4") == "no_video_stream"


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx")])
def test_a_file_that_ends_early_is_truncated(tmp_path: Path, name: str, codec: str) -> None:
    rng = np.random.default_rng(0)
    write_at(tmp_path / name, rng.integers(0, 255, 90).tolist(), [k * 33 for k in range(90)], codec=codec)
    whole = (tmp_path / name).read_bytes()
    if name.endswith("mp4"):  # an index in front survives the cut
        write_mp4(tmp_path / name, rng.integers(0, 255, (90, 32, 48, 3), np.uint8), 30.0)
        whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
    assert reason(tmp_path / name) == "truncated"


def test_limits_stop_a_file_before_it_costs_memory(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", blocks(17), 8.0)
    assert reason(tmp_path / "a.mp4", Limits(max_pixels=1000)) == "too_large"
    assert reason(tmp_path / "a.mp4", Limits(max_frames=16)) == "too_long"
    assert reason(tmp_path / "a.mp4", Limits(max_seconds=1.9)) == "too_long"
    assert len(read_clip(tmp_path / "a.mp4", Limits(32 * 48, 17, 2.0))) == 17


def test_times_start_at_the_first_frame(tmp_path: Path) -> None:
    write_at(tmp_path / "a.mkv", [50] * 4, [500, 600, 700, 800])
    assert [seconds for seconds, _ in read_frames(tmp_path / "a.mkv")] == pytest.approx([0, 0.1, 0.2, 0.3], abs=1e-3)
