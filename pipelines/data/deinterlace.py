"""Interlaced frames, two half pictures of different times combed into one, made into whole ones by FFmpeg's bwdif."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import cast

import av
from av.filter import Graph
from av.video.frame import VideoFrame

Timed = tuple[float, VideoFrame]
FILTER = "mode=send_frame:parity=auto:deint=interlaced"
"""One frame for each, at the time of its first half; frames that are not marked as interlaced pass as they are."""


class _Filter:
    """bwdif for frames of one form; frames come out in order, one behind what went in."""

    def __init__(self, frame: VideoFrame) -> None:
        self.form = _form(frame)
        self._times: deque[float] = deque()
        self._graph, self._count = Graph(), 0
        space = f":colorspace={frame.colorspace}:range={frame.color_range}"
        form = f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}"
        source = self._graph.add("buffer", f"{form}:time_base=1/1:pixel_aspect=1/1{space}")
        filtered, sink = self._graph.add("bwdif", FILTER), self._graph.add("buffersink")
        source.link_to(filtered)
        filtered.link_to(sink)
        self._graph.configure()
        self._source, self._sink = source, sink

    def push(self, seconds: float, frame: VideoFrame) -> Iterator[Timed]:
        self._times.append(seconds)
        frame.pts, frame.time_base = self._count, Fraction(1)
        self._count += 1
        self._source.push(frame)
        yield from self._pull()

    def end(self) -> Iterator[Timed]:
        self._source.push(None)
        yield from self._pull()

    def _pull(self) -> Iterator[Timed]:
        while self._times:
            try:
                made = self._sink.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            yield self._times.popleft(), cast(VideoFrame, made)


def _form(frame: VideoFrame) -> tuple[object, ...]:
    return frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range


class Deinterlacer:
    """Frames through it in order; without an interlaced one nothing is touched."""

    def __init__(self) -> None:
        self._running: _Filter | None = None

    def push(self, timed: list[Timed]) -> Iterable[Timed]:
        """What comes out when these go in."""
        if self._running is None and not any(frame.interlaced_frame for _, frame in timed):
            return timed
        return self._filtered(timed)

    def _filtered(self, timed: list[Timed]) -> Iterator[Timed]:
        for seconds, frame in timed:
            if self._running is not None and self._running.form != _form(frame):
                yield from self.end()
            if self._running is None and frame.interlaced_frame:
                self._running = _Filter(frame)
            if self._running is None:
                yield seconds, frame
            else:
                yield from self._running.push(seconds, frame)

    def end(self) -> Iterator[Timed]:
        """What is still inside."""
        if self._running is not None:
            yield from self._running.end()
        self._running = None
