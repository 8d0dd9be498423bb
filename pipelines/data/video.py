"""Video files through PyAV: what a file really holds, its frames with their times, and H.264 mp4 files of our own.

Headers are not believed: frame counts and rates are read off the decoded frames and their timestamps (a webm's header
counts 0 frames, others count too many). A file is opened by a short list of containers, from this machine only, within
limits on pixels, frames and seconds, because a few kilobytes can claim gigabytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.codec import CodecContext
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipelines.data.limits import Clock, Limits, VideoError, check_bytes
from pipelines.data.picture import Converter, Picture
from pipelines.data.resample import nearest_in_time

CONTAINERS = ("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "ogg", "flv")
SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".ts", ".mpg", ".mpeg", ".ogv", ".flv", ".3gp")
"""File names that promise a video. What is inside decides, by CONTAINERS."""

SHORTFALL_SECONDS = 0.5
SHORTFALL_SHARE = 0.05
"""A file whose packets end this much before its stated duration was cut off (both, because durations are rounded)."""

WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that read the transparency of a WebM too; FFmpeg's own ones of these codecs pass over it."""

X264 = "log-level=none:threads=1:mbtree=0:bframes=0"
"""Quiet, and equal bytes for equal frames: with its macroblock tree and B-frames x264 gives several for short clips."""


@dataclass(frozen=True)
class Probe:
    """What decoding a file from end to end showed. Sizes are upright (after rotation) and in square pixels."""

    num_frames: int
    width: int
    height: int
    frame_rate: float
    seconds: float
    rotation: int
    variable_rate: bool
    codec: str
    container: str


@contextlib.contextmanager
def _opened(path: Path, limits: Limits) -> Iterator[tuple[InputContainer, VideoStream]]:
    check_bytes(path, limits)
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}
    try:
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        text = "is empty" if path.stat().st_size == 0 else f"is no video container known here ({_words(error)})"
        raise VideoError("not_video", text) from None
    with container:
        streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not streams:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams"
            raise VideoError("no_video_stream", f"holds {kinds}, no video")
        known = [stream for stream in streams if stream.codec_context is not None]
        if not known:
            raise VideoError("decode_error", "its codec is unknown here")
        stream = max(known, key=lambda one: (one.width * one.height, -one.index))
        _check_size(stream.width, stream.height, limits)
        yield container, stream


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise VideoError("too_large", f"{width}x{height} pixels; at most {limits.max_pixels} are allowed")


def _decoder(stream: VideoStream, limits: Limits) -> VideoCodecContext:
    """What decodes the stream, on one thread and within the limit of pixels."""
    decoder = stream.codec_context
    transparent = WITH_ALPHA.get(decoder.name) if stream.metadata.get("alpha_mode") == "1" else None
    if transparent in av.codecs_available:
        decoder = cast(VideoCodecContext, CodecContext.create(transparent, "r"))
    decoder.options = {"max_pixels": str(2 * limits.max_pixels + 65536)}  # decoders pad their frames
    decoder.thread_type, decoder.thread_count = "NONE", 1
    return decoder


def _words(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0]


def _check_end(container: InputContainer, end: float) -> None:
    """Compare where the packets of all streams end with the duration that the container states, if it states one."""
    if container.duration is None:
        return
    stated = container.duration / av.time_base
    if end < stated - SHORTFALL_SECONDS and end < stated * (1 - SHORTFALL_SHARE):
        raise VideoError("truncated", f"ends at {end:.2f} s of {stated:.2f} s")


def _frames(container: InputContainer, stream: VideoStream, limits: Limits) -> Iterator[tuple[float, VideoFrame]]:
    count, first, end = 0, None, 0.0
    started = (container.start_time or 0) / av.time_base
    clock, decoder = Clock(limits.max_decode_seconds), _decoder(stream, limits)
    try:
        for packet in container.demux():
            clock.check()
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base) - started)
            if packet.stream_index != stream.index:
                continue
            for frame in packet.decode() if decoder is stream.codec_context else decoder.decode(packet):
                if not isinstance(frame, VideoFrame):
                    continue
                if frame.time is None:
                    raise VideoError("no_timestamps", f"frame {count} has no timestamp")
                first = frame.time if first is None else first
                count += 1
                if count > limits.max_frames or frame.time - first > limits.max_seconds:
                    raise VideoError("too_long", f"more than {limits.max_frames} frames or {limits.max_seconds:g} s")
                with clock.stopped():
                    yield frame.time - first, frame
    except av.FFmpegError as error:
        if any(entry.pos + entry.size > container.size for entry in stream.index_entries):
            text = f"frame {count}: the file ends before the frames that its index names"
            raise VideoError("truncated", text) from None
        raise VideoError("decode_error", f"frame {count}: {_words(error)}") from None
    if count == 0:
        raise VideoError("decode_error", "not one frame could be decoded")
    _check_end(container, end)


def _picture(frame: VideoFrame, stream: VideoStream, converted: Converter) -> Picture:
    """With the rotation from the frame's side data (degrees anticlockwise) and the stream's pixel shape."""
    aspect = stream.sample_aspect_ratio
    known = aspect if aspect is not None and aspect > 0 else Fraction(1)
    return Picture(frame, round(frame.rotation / 90) % 4, known, converted)


def read_frames(path: Path, limits: Limits | None = None) -> Iterator[tuple[float, np.ndarray]]:
    """Decode the best video stream, frame by frame.

    Yields:
        Seconds since the first frame, and uint8 [H, W, 3], RGB, upright, the stored pixels.

    Raises:
        VideoError: the file is no video, is damaged, ends early, or is over a limit (possibly after some frames).
    """
    limits = limits or Limits()
    with _opened(path, limits) as (container, stream):
        converted = Converter()
        for seconds, frame in _frames(container, stream, limits):
            yield seconds, _picture(frame, stream, converted).pixels()


def sample_pictures(path: Path, frame_rate: float, limits: Limits | None = None) -> Iterator[Picture | None]:
    """Pictures at a regular rate: picture k is the one nearest to k / frame_rate after the first frame.

    Args:
        path: a video file.
        frame_rate: wanted pictures per second.
        limits: most that the file may hold.

    Yields:
        A picture, or None where no frame is within half a period of its time.

    Raises:
        VideoError: as :func:`read_frames`.
    """
    limits = limits or Limits()
    with _opened(path, limits) as (container, stream):
        converted = Converter()
        for frame in nearest_in_time(_frames(container, stream, limits), frame_rate):
            yield None if frame is None else _picture(frame, stream, converted)


def sample_frames(
    path: Path, frame_rate: float, size: tuple[int, int], limits: Limits | None = None
) -> Iterator[np.ndarray | None]:
    """As :func:`sample_pictures`, resized to cover ``size`` (height, width) and cropped: uint8 [height, width, 3]."""
    for picture in sample_pictures(path, frame_rate, limits):
        yield None if picture is None else picture.cover(*size)


def read_clip(path: Path, limits: Limits | None = None) -> np.ndarray:
    """All frames of a (short) video: uint8 [T, H, W, 3], RGB, upright.

    Raises:
        VideoError: as :func:`read_frames`; the frame size changes within the file.
    """
    frames = [pixels for _, pixels in read_frames(path, limits=limits)]
    if len({pixels.shape for pixels in frames}) > 1:
        raise VideoError("decode_error", "the frame size changes within the file")
    return np.stack(frames)


def probe(path: Path, limits: Limits | None = None) -> Probe:
    """Decode the file from end to end and say what it holds.

    The rate is variable when the gaps between frames spread by more than two ticks of the clock and by more than 5 %
    of their mean (timestamps rounded to milliseconds are not a variable rate).

    Raises:
        VideoError: as :func:`read_frames`.
    """
    limits = limits or Limits()
    with _opened(path, limits) as (container, stream):
        times, last = [], None
        for seconds, frame in _frames(container, stream, limits):
            times.append(seconds)
            last = frame
        assert last is not None
        gaps = np.array([later - earlier for earlier, later in pairwise(times)]) if len(times) > 1 else np.zeros(1)
        gap, spread = float(gaps.mean()), float(gaps.max() - gaps.min())
        picture = _picture(last, stream, Converter())
        height, width = picture.size
        return Probe(
            num_frames=len(times),
            width=width,
            height=height,
            frame_rate=1 / gap if gap > 0 else 0.0,
            seconds=times[-1] + gap,
            rotation=picture.turns * 90,
            variable_rate=spread > 2 * float(stream.time_base or 0) and spread > 0.05 * gap,
            codec=stream.codec_context.name,
            container=container.format.name,
        )


def write_mp4(
    path: Path, frames: np.ndarray, frame_rate: float, metadata: Mapping[str, str] | None = None, crf: int = 10
) -> None:
    """Write H.264 in mp4 (yuv420p, plays in every browser); equal input gives equal bytes.

    Args:
        path: the file; its folder exists.
        frames: uint8 [T, H, W, 3], RGB; H and W even.
        frame_rate: frames per second.
        metadata: container tags, such as ``title`` and ``comment``.
        crf: constant rate factor of x264, 0 (largest) to 51.

    Raises:
        ValueError: the frames are not such an array.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(f"{path}: frames must be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    _, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise ValueError(f"{path}: yuv420p needs an even height and width, got {height}x{width}")
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream("libx264", rate=Fraction(frame_rate).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1  # x264 itself splits small frames otherwise, and bytes differ
        stream.options = {"preset": "veryfast", "crf": str(crf), "x264-params": X264}
        for pixels in frames:
            container.mux(stream.encode(VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode(None))
