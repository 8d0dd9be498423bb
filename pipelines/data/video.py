"""Video files through PyAV: what a file really holds, its frames with their times, and H.264 mp4 files of our own.

Headers are not believed: frame counts and rates are read off the decoded frames and their timestamps (a webm's header
counts 0 frames, others count too many).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

from pipelines.data.color import is_hdr
from pipelines.data.decoding import Film
from pipelines.data.limits import Limits, VideoError
from pipelines.data.picture import EXACT, Converter, Picture
from pipelines.data.resample import nearest_in_time
from pipelines.data.upright import AS_STORED, upright

X264 = "log-level=none:threads=1:mbtree=0:bframes=0:cabac=0"
"""Quiet, and equal bytes for equal frames: with its macroblock tree and B-frames x264 gives several for short clips.

Without arithmetic coding, because clips are read much more often than written: at this quality reading takes half to
three quarters of the time, the same pixels' files are 0 to 13 % larger."""


AT_FIRST = 32
"""Frames of a clip that are made room for before it is known how many there are."""


@dataclass(frozen=True)
class Tags:
    """What stands in a file of ours about its colours, by FFmpeg's numbers."""

    colorspace: int = 1
    color_range: int = ColorRange.MPEG
    color_trc: int = ColorTrc.BT709
    color_primaries: int = ColorPrimaries.BT709


TAGGED = Tags()


@dataclass(frozen=True)
class ProbedFile:
    """What decoding a file from end to end showed. Sizes are upright (after rotation) and in square pixels."""

    num_frames: int
    width: int
    height: int
    frame_rate: float
    seconds: float
    rotation: int
    mirrored: bool
    interlaced: bool
    variable_rate: bool
    codec: str
    container: str


@dataclass
class Seen:
    """What sampling a file showed, up to where it was read.

    ``pictures`` times of the grid were looked at, ``gaps`` of them had no frame near and ``held`` showed the frame
    before. ``seconds`` lie between the first and the last of ``frames`` frames. ``total``: most pictures that the grid
    can have, as soon as it is known.
    """

    pictures: int = 0
    gaps: int = 0
    held: int = 0
    frames: int = 0
    seconds: float = 0.0
    interlaced: bool = False
    hdr: bool = False
    total: int | None = None

    @property
    def frame_rate(self) -> float | None:
        """Frames per second of the file; None where it shows none."""
        return (self.frames - 1) / self.seconds if self.seconds > 0 else None


def _pictures(film: Film) -> Iterator[tuple[float, Picture]]:
    """The film's frames, upright and in square pixels; how they lie is looked up where a group of frames begins."""
    converted, aspect, size, laid = Converter(), Fraction(1), (0, 0), AS_STORED
    for seconds, frame in film.frames():
        if (frame.width, frame.height) != size:
            size, converted, aspect = (frame.width, frame.height), Converter(film.codec), film.aspect
            laid = film.matrix or upright(frame)
        elif frame.key_frame:
            laid = film.matrix or upright(frame)
        yield seconds, Picture(frame, laid, aspect, converted, seconds)


def read_frames(path: Path, limits: Limits | None = None) -> Iterator[tuple[float, np.ndarray]]:
    """Decode the best video stream, frame by frame.

    Yields:
        Seconds since the first frame, and uint8 [H, W, 3], RGB, upright, the stored pixels.

    Raises:
        VideoError: the file is no video, is damaged, ends early, or is over a limit (possibly after some frames).
    """
    for seconds, picture in _pictures(Film(path, limits or Limits())):
        yield seconds, picture.pixels()


def sample_pictures(
    path: Path,
    frame_rate: float,
    limits: Limits | None = None,
    hold_seconds: float = 0.0,
    seen: Seen | None = None,
    start: int = 0,
) -> Iterator[Picture | None]:
    """Pictures at a regular rate: picture k is the one nearest to k / frame_rate after the first frame.

    Args:
        path: a video file.
        frame_rate: wanted pictures per second.
        limits: most that the file may hold.
        hold_seconds: where no frame is near, the one before is shown on for at most so long.
        seen: what was seen on the way is noted there.
        start: number of the first wanted picture; a long file is not decoded from its begin for a late one.

    Yields:
        A picture, or None where no frame is within half a period of its time. Frames that are not nearest to any time
        are not decoded where nothing else needs them.

    Raises:
        VideoError: as :func:`read_frames`.
    """
    film, seen = Film(path, limits or Limits(), frame_rate, start / frame_rate), seen or Seen()
    last: Picture | None = None
    timed = _noted(film, seen, hold_seconds)
    for picture in nearest_in_time(timed, frame_rate, hold_seconds, start, film.upcoming):
        seen.pictures += 1
        seen.gaps += picture is None
        seen.held += picture is not None and picture is last
        last = picture or last
        yield picture


def _noted(film: Film, seen: Seen, hold_seconds: float) -> Iterator[tuple[float, Picture]]:
    """The film's pictures, noted; the last one, where it is to be held, once more at the end of its time."""
    seconds, picture = 0.0, None
    for seconds, picture in _pictures(film):
        seen.frames, seen.seconds = film.packets, seconds
        seen.total = film.total if hold_seconds == 0 and film.start == 0 else None
        seen.interlaced, seen.hdr = film.interlaced, seen.hdr or is_hdr(picture.frame)
        yield seconds, picture
    if picture is not None and hold_seconds > 0:
        shown = min(film.last_duration, hold_seconds)
        if shown > 1 / (film.rate or 1):
            yield seconds + shown - 0.5 / (film.rate or 1), picture


def read_clip(path: Path, limits: Limits | None = None) -> np.ndarray:
    """All frames of a (short) video: uint8 [T, H, W, 3], RGB, upright.

    Raises:
        VideoError: as :func:`read_frames`; the frame size changes within the file.
    """
    frames, count = np.empty((0, 0, 0, 3), np.uint8), 0
    for _, pixels in read_frames(path, limits=limits):
        if count == 0:
            frames = np.empty((AT_FIRST, *pixels.shape), np.uint8)
        elif pixels.shape != frames.shape[1:]:
            raise VideoError("decode_error", "the frame size changes within the file")
        if count == len(frames):
            frames = np.concatenate([frames, np.empty_like(frames)])
        frames[count] = pixels
        count += 1
    return frames[:count]


def probe(path: Path, limits: Limits | None = None) -> ProbedFile:
    """Decode the file from end to end and say what it holds.

    The rate is variable when the gaps between frames spread by more than two ticks of the clock and by more than 5 %
    of their mean (timestamps rounded to milliseconds are not a variable rate).

    Raises:
        VideoError: as :func:`read_frames`.
    """
    film, times = Film(path, limits or Limits()), []
    last: Picture | None = None
    for seconds, picture in _pictures(film):
        times.append(seconds)
        last = picture
    assert last is not None
    gaps = np.array([later - earlier for earlier, later in pairwise(times)]) if len(times) > 1 else np.zeros(1)
    gap, spread = float(gaps.mean()), float(gaps.max() - gaps.min())
    height, width = last.size
    return ProbedFile(
        num_frames=len(times),
        width=width,
        height=height,
        frame_rate=1 / gap if gap > 0 else 0.0,
        seconds=times[-1] + gap,
        rotation=last.upright.turns * 90,
        mirrored=last.upright.mirrored,
        interlaced=film.interlaced,
        variable_rate=spread > 2 * film.tick and spread > 0.05 * gap,
        codec=film.codec,
        container=film.container,
    )


def _coded(converter: VideoReformatter, pixels: np.ndarray) -> VideoFrame:
    """uint8 [H, W, 3] as yuv420p of BT.709, every pixel's colour weighing in."""
    return converter.reformat(
        VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"),
        format="yuv420p",
        interpolation=Interpolation.BICUBIC | EXACT,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=TAGGED.color_range,
        threads=1,
    )


class Mp4:
    """An H.264 mp4 (yuv420p, BT.709, tagged so) that grows frame by frame; a context, finished where it ends.

    Args:
        path: the file; its folder exists.
        size: height and width in pixels; even.
        frame_rate: frames per second.
        metadata: container tags, such as ``title`` and ``comment``.
        crf: constant rate factor of x264, 0 (largest) to 51.

    Raises:
        ValueError: the size is odd.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        frame_rate: float,
        metadata: Mapping[str, str] | None = None,
        crf: int = 10,
    ) -> None:
        height, width = size
        if height % 2 or width % 2:
            raise ValueError(f"{path}: yuv420p needs an even height and width, got {height}x{width}")
        self.container = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        self.container.metadata.update(metadata or {})
        self.stream = self.container.add_stream("libx264", rate=Fraction(frame_rate).limit_denominator(1001))
        self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, "yuv420p"
        coder = self.stream.codec_context
        coder.colorspace, coder.color_range = TAGGED.colorspace, TAGGED.color_range
        coder.color_trc, coder.color_primaries = TAGGED.color_trc, TAGGED.color_primaries
        coder.thread_count = 1  # x264 itself splits small frames otherwise, and bytes differ
        self.stream.options = {"preset": "veryfast", "crf": str(crf), "x264-params": X264}
        self.converter = VideoReformatter()

    def __enter__(self) -> Mp4:
        return self

    def add(self, pixels: np.ndarray) -> None:
        """One frame, uint8 [H, W, 3], RGB."""
        self.container.mux(self.stream.encode(_coded(self.converter, pixels)))

    def __exit__(self, *_: object) -> None:
        self.container.mux(self.stream.encode(None))
        self.container.close()


def write_mp4(
    path: Path, frames: np.ndarray, frame_rate: float, metadata: Mapping[str, str] | None = None, crf: int = 10
) -> None:
    """Write frames uint8 [T, H, W, 3] as :class:`Mp4` does; equal input gives equal bytes.

    Raises:
        ValueError: the frames are not such an array.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(f"{path}: frames must be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    with Mp4(path, frames.shape[1:3], frame_rate, metadata, crf) as film:
        for pixels in frames:
            film.add(pixels)
