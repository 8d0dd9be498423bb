"""Packets to frames with their times: what is damaged is refused, what no picture needs is not decoded."""

from __future__ import annotations

import contextlib
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from math import ceil
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipelines.data.checksums import Clusters
from pipelines.data.containers import RAW, RESTARTING, SHORTFALL_SECONDS, SHORTFALL_SHARE, decoder_of, opened, words
from pipelines.data.deinterlace import Deinterlacer
from pipelines.data.limits import Clock, Limits, VideoError
from pipelines.data.resample import ROUNDING_SECONDS
from pipelines.data.seeking import LATE_SECONDS, SEEKABLE, seek
from pipelines.data.timeline import JITTER_SECONDS, Timeline
from pipelines.data.upright import Upright, upright

AHEAD = 24
"""Packets read ahead of the decoder at least: the times around each are known before it is its turn."""
FAR_PACKETS, FAR_BYTES = 1000, 1 << 24
"""Most that is read ahead: of a short file all, so that its end is known before it is decoded."""
SKIPPABLE = ("h264", "mpeg2video", "mpeg4")
"""Codecs whose decoders leave out, when asked, a frame that no other frame needs, and only such a frame; HEVC's does
where there is one temporal layer."""
SURE = 1e-6
LAST_BYTES = 65536
"""Where packets cannot be read any more, what lies so near to the file's end is cut off there."""
AT_END = 4
"""Packets, with the one that flushes, within which damage is the end of a file that was cut off, or the end of one
recording that another follows: a transport stream's count of packets breaks at that joint as where one is lost."""


class Thinned:
    """Which packets give frames that no time of a regular grid is nearest to, as far as can be told for sure."""

    def __init__(self, rate: float | None, skippable: bool) -> None:
        self._rate = rate
        self._skippable = skippable
        self._times: list[int] = []
        self._sent: deque[int] = deque()
        self.is_all = False
        """Whether every packet of the file was read."""

    def coming(self, packet: Packet, back: float) -> None:
        """Note a packet that was read ahead; ``back``: units of time that times go back by when they start again."""
        if self._rate is None or packet.is_discard or not packet.size:
            return
        if packet.pts is None or (self._times and packet.pts < self._times[-1] - back):
            self._rate = None  # times are missing or start again: nothing can be told
            return
        place = bisect_left(self._times, packet.pts)
        if place < len(self._times) and self._times[place] == packet.pts:
            self._rate = None  # two frames of one time: when each is shown is told as they come
            return
        self._times.insert(place, packet.pts)
        self._sent.append(packet.pts)
        if len(self._sent) > FAR_PACKETS + 3 * AHEAD:
            self._times.remove(self._sent.popleft())

    def spares(self, packet: Packet, timeline: Timeline) -> bool:
        """Whether the frame of this packet is in nobody's clip."""
        if self._rate is None or not (self._skippable and timeline.is_plain) or packet.pts is None:
            return False
        assert timeline.first is not None
        place = bisect_left(self._times, packet.pts)
        if place == 0 or place >= len(self._times) - 1:
            return False
        before, at, after = (time - timeline.first for time in self._times[place - 1 : place + 2])
        low, high = (before + at) / 2 * timeline.tick, (at + after) / 2 * timeline.tick
        return ceil((low - SURE) * self._rate) / self._rate > high + SURE

    def upcoming(self, seconds: float, timeline: Timeline) -> float | None:
        """When the next frame after this time is shown at the earliest; None: that cannot be told."""
        if self._rate is None or not timeline.is_plain:
            return None
        assert timeline.first is not None
        place = bisect_right(self._times, seconds / timeline.tick + timeline.first + 0.5)
        is_known = place < len(self._times) - (not self.is_all)
        return (self._times[place] - timeline.first) * timeline.tick if is_known else None

    def total(self, timeline: Timeline) -> int | None:
        """Most pictures that the grid can have, once it is known where the file ends."""
        if self._rate is None or not self.is_all or not self._times or not timeline.is_steady:
            return None
        assert timeline.first is not None
        last = (self._times[-1] - timeline.first) * timeline.tick
        return int((last + ROUNDING_SECONDS + SURE) * self._rate + 0.5) + 1


class Film:
    """One pass over the frames of a file, with what is known of it so far.

    ``matrix``: how its frames are laid upright, where only the container's own decoder is told; None: frames say it.
    """

    def __init__(self, path: Path, limits: Limits, rate: float | None = None, start: float = 0.0) -> None:
        """``rate``: of the regular grid that frames are wanted for, per second; None: all are. ``start``: seconds of
        the first that is wanted; those before may be left out."""
        self.path, self.limits, self.rate, self.start = path, limits, rate, start
        self.count, self.packets, self.end = 0, 0, 0.0
        self.interlaced = self.leaves_out = False
        self.matrix: Upright | None = None
        self.begins: int | None = None
        """Time of the first key frame; what is shown before it needs frames that are not in the file."""
        self.waiting: deque[Packet] = deque()
        self.began, self.fresh, self.last_duration = False, True, 0.0

    def frames(self) -> Iterator[tuple[float, VideoFrame]]:
        """Seconds since the first frame, rising, and the frame, whole (not interlaced).

        Raises:
            VideoError: the file is damaged, ends early, or is over a limit.
        """
        with contextlib.ExitStack() as held:
            container, self.stream, stated = held.enter_context(opened(self.path, self.limits))
            self._prepare(container)
            if self.clusters is not None:
                held.callback(self.clusters.close)
            deinterlacer = Deinterlacer()
            for made in self._decoded(container, stated):
                for timed in deinterlacer.push(made) if self.interlaced else made:
                    self.clock.stop()
                    yield timed
                    self.clock.go_on()
            yield from deinterlacer.end()

    @property
    def total(self) -> int | None:
        """Most pictures that the grid can have; None as long as the file's end is unknown."""
        return self.thinned.total(self.timeline)

    def upcoming(self, seconds: float) -> float | None:
        """As :meth:`Thinned.upcoming`."""
        return self.thinned.upcoming(seconds, self.timeline)

    @property
    def aspect(self) -> Fraction:
        """Width of a stored pixel where its height is 1."""
        found = self.stream.sample_aspect_ratio
        return found if found is not None and found > 0 else Fraction(1)

    def _prepare(self, container: InputContainer) -> None:
        stream, names = self.stream, set(container.format.name.split(","))
        self.container = container.format.name
        self.clock, self.decoder = Clock(self.limits.max_decode_seconds), decoder_of(stream, self.limits)
        self.own, self.intra = self.decoder is stream.codec_context, stream.codec_context.codec.intra_only
        self.codec, self.tick = stream.codec_context.name, float(stream.time_base or 1)
        step = _step(container, stream)
        restarts, by_decoding = bool(names & set(RESTARTING)), "mpegvideo" in names
        self.timeline = Timeline(self.codec, self.tick, step, restarts, self.intra, by_decoding)
        self.timeline.coming = self.waiting
        self.thinned = Thinned(self.rate, self.intra or self.codec in SKIPPABLE or _has_one_layer(stream))
        self.clusters = Clusters(self.path) if "matroska" in names else None
        self.open_ended = bool(names & {*RESTARTING, *RAW, "ivf", "nut"})

    def _decoded(self, container: InputContainer, stated: float | None) -> Iterator[list[tuple[float, VideoFrame]]]:
        """What each packet gives."""
        waiting, size = self.waiting, 0
        if self.start > LATE_SECONDS and set(container.format.name.split(",")) & set(SEEKABLE):
            self._go_to_start(container)
        for packet in self._packets(container, stated):
            if self.rate is not None:
                self.thinned.coming(packet, JITTER_SECONDS / self.tick)
            waiting.append(packet)
            size += packet.size
            while len(waiting) > AHEAD and (self.rate is None or len(waiting) > FAR_PACKETS or size > FAR_BYTES):
                size -= waiting[0].size
                yield self._given(waiting.popleft(), last=False)
        self.thinned.is_all = True
        while waiting:
            yield self._given(waiting.popleft(), last=self.open_ended and len(waiting) < AT_END)
        if self.count == 0:
            raise VideoError("decode_error", "not one frame could be decoded")
        if stated and self.end < stated - SHORTFALL_SECONDS and self.end < stated * (1 - SHORTFALL_SHARE):
            raise VideoError("truncated", f"ends at {self.end:.2f} s of {stated:.2f} s")

    def _go_to_start(self, container: InputContainer) -> None:
        """From the first frame, which all times are counted from, to the last key frame before the start."""
        for packet in container.demux(self.stream):
            self._given(packet, last=False)
            if self.timeline.is_steady:
                break
        if not self.timeline.is_steady or self.timeline.first is None:
            raise VideoError("no_timestamps", "states no times, by which a cut could be found")
        seek(container, self.stream, self.timeline.first + int(self.start / self.tick), self.timeline.first)
        self.decoder.flush_buffers()
        self.timeline.go_on()
        self.began = False

    def _packets(self, container: InputContainer, stated: float | None) -> Iterator[Packet]:
        """The packets of the stream; where the file states only seconds, those of all streams are looked at."""
        started, read_to = (container.start_time or 0) / av.time_base, 0
        try:
            for packet in container.demux(self.stream) if stated is None else container.demux():
                if stated is not None and packet.pts is not None and packet.time_base is not None:
                    self.end = max(self.end, float((packet.pts + (packet.duration or 0)) * packet.time_base) - started)
                if packet.stream.index == self.stream.index:
                    read_to = max(read_to, (packet.pos or 0) + packet.size)
                    yield packet
        except av.FFmpegError as error:
            reason = "truncated" if self.path.stat().st_size - read_to < LAST_BYTES else "decode_error"
            raise VideoError(reason, f"frame {self.count}: its packets cannot be read ({words(error)})") from None

    def _given(self, packet: Packet, last: bool) -> list[tuple[float, VideoFrame]]:
        """The frames that a packet gives, with their times."""
        if packet.size:
            if self.clusters is not None:
                self.clusters.check(packet.pos)
            if packet.is_corrupt and not any(one.is_keyframe for one in islice(self.waiting, AT_END)):
                raise self._damaged("the container marks it as damaged", last)
            if not self._is_due(packet):
                return []
        try:
            made = self._made(packet)
        except av.EOFError:
            return []  # of a decoder of our own, flushed once already
        except av.FFmpegError as error:
            raise self._damaged(words(error), last) from None
        if not made:
            self.clock.stop()
        timed = []
        for frame in made:
            if frame.is_corrupt:
                raise self._damaged("the decoder marks it as damaged", last)
            seconds = self._seconds(frame)
            if seconds is not None:
                timed.append((seconds, frame))
        return timed

    def _is_due(self, packet: Packet) -> bool:
        """Whether the packet goes to the decoder; tells the decoder, too, whether it may leave the frame out."""
        if not self.began:
            if not packet.is_keyframe:
                return False
            self.began, self.fresh, self.begins = True, True, packet.pts
            ahead = [one.pts for one in self.waiting if one.size]
            self.timeline.stands_still = len(ahead) > 1 and set(ahead) == {packet.pts}
        elif self.fresh and self.begins is not None and packet.pts is not None and packet.pts < self.begins:
            return False
        spare = self.rate is not None and not self.interlaced and self.thinned.spares(packet, self.timeline)
        self.packets += not packet.is_discard
        if spare and self.intra:
            return False
        if spare is not self.leaves_out:
            self.decoder.skip_frame, self.leaves_out = "NONREF" if spare else "DEFAULT", spare
        if not spare:
            self.timeline.sent(packet)
        return True

    def _made(self, packet: Packet) -> list[VideoFrame]:
        if not self.own and self.matrix is None and packet.size:
            known = [upright(frame) for frame in self.stream.codec_context.decode(packet)]
            self.matrix = known[0] if known else None
        return self.decoder.decode(packet if packet.size else None)

    def _damaged(self, text: str, last: bool) -> VideoError:
        return VideoError("truncated" if last else "decode_error", f"frame {self.count}: {text}")

    def _seconds(self, frame: VideoFrame) -> float | None:
        """When the frame is shown; None: it is passed over."""
        seconds = self.timeline.seconds(frame)
        self.interlaced = self.interlaced or frame.interlaced_frame
        self.count, self.fresh = self.count + 1, False
        self.last_duration = frame.duration * self.tick
        if seconds is None:
            if not self.timeline.is_known:
                raise VideoError("no_timestamps", "states neither times nor a frame rate; put it into a container")
            return None
        most = self.limits
        if max(self.count, self.packets - AHEAD) > most.max_frames or seconds > most.max_seconds:
            raise VideoError("too_long", f"more than {most.max_frames} frames or {most.max_seconds:g} s")
        return seconds


def _has_one_layer(stream: VideoStream) -> bool:
    """Whether an HEVC stream says that no frame is spared for lower rates, so that what is marked as unused is."""
    head = stream.codec_context.extradata or b""
    return stream.codec_context.name == "hevc" and len(head) > 22 and head[0] == 1 and (head[21] >> 3) & 7 == 1


def _step(container: InputContainer, stream: VideoStream) -> float | None:
    """Seconds per frame that the file itself states."""
    rate = stream.codec_context.framerate if container.format.name in RAW else stream.average_rate
    return float(1 / rate) if rate else None
