"""When each decoded frame is shown, whatever its container does to the times.

Decoders give frames in the order in which they are shown; the times that containers give may be those of decoding
(H.264 with B-frames in AVI), may start again (recordings put one behind another), jump, stand still, or be missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from av.packet import Packet
from av.video.frame import VideoFrame

REORDERING = ("h264", "hevc", "mpeg4", "mpeg2video", "vc1", "wmv3", "msmpeg4v2", "msmpeg4v3")
"""Codecs that store frames in another order than they are shown in, one frame per packet."""
JITTER_SECONDS = 0.5
"""A time that goes back by less is a slip, and its frame is passed over; by more, the times start again."""
JUMP_SECONDS = 10.0
"""In containers whose times may start again, a longer way forward is a new start too."""
WAITING = 64
"""Packets that may be on their way through a decoder."""


class Timeline:
    """Seconds since the first frame: ``sent`` sees every packet that goes to the decoder, ``seconds`` every frame."""

    def __init__(
        self, codec: str, tick: float, step: float | None, restarts: bool, intra: bool, by_decoding: bool = False
    ) -> None:
        """``tick``: seconds per unit of time; ``step``: seconds per frame, None where the file does not say;
        ``by_decoding``: only the times of decoding are right."""
        self._may_reorder, self._restarts, self._intra = codec in REORDERING, restarts, intra
        self.tick, self._step = tick, step
        self._waiting: deque[int] = deque(maxlen=WAITING)
        self._pushed: int | None = None
        self._by_decoding = by_decoding
        self._rising, self._in_order = True, by_decoding
        self.first: int | None = None
        self.stands_still = False
        """Set where every packet states one time, which is none."""
        self._moved = 0.0
        self._last: float | None = None
        self._gap: float | None = None
        self._untimed: tuple[float | None, int] | None = None
        self._same: tuple[int, int] | None = None
        self.coming: Iterable[Packet] = ()
        """Packets that were read and not sent yet."""

    @property
    def is_plain(self) -> bool:
        """Whether a packet's time is ``(pts - first) * tick``: nothing odd was seen so far, and order is known."""
        ordered = self._intra or not (self._may_reorder and self._rising)
        return ordered and self.is_steady and not self._in_order

    @property
    def is_steady(self) -> bool:
        """Whether times have begun and did not start again so far."""
        return self.first is not None and self._moved == 0.0 and not self.stands_still

    @property
    def is_known(self) -> bool:
        """Whether any frame has a time."""
        return self._last is not None

    def go_on(self) -> None:
        """After a jump to another place of the file."""
        self._waiting.clear()
        self._pushed = self._last = self._gap = self._same = None

    def sent(self, packet: Packet) -> None:
        """Note a packet that will give a frame."""
        time = self._time(packet)
        if time is None or packet.size == 0 or packet.is_discard:
            return
        self._rising = self._rising and (self._pushed is None or time > self._pushed)
        self._pushed = time
        self._waiting.append(time)

    def _stated(self, frame: VideoFrame) -> int | None:
        """The frame's own time, or that of the packet whose turn it is, where times are those of decoding."""
        own = frame.dts if frame.pts is None else frame.pts
        if self._waiting and (self._by_decoding or self._waiting[0] == own):
            return self._waiting.popleft()
        if own is None or own not in self._waiting:
            return self._waiting.popleft() if self._in_order and self._waiting else own
        if frame.key_frame:
            while self._waiting[0] != own:  # what was sent before it and did not come is not coming
                self._waiting.popleft()
        elif self._may_reorder and self._rising and self._waiting[0] < own:
            self._in_order = True
        if self._in_order:
            return self._waiting.popleft()
        self._waiting.remove(own)
        return own

    def seconds(self, frame: VideoFrame) -> float | None:
        """When the frame is shown, since the first one; None: it is to be passed over, or no time is known."""
        stated = None if self.stands_still else self._stated(frame)
        step = frame.duration * self.tick if frame.duration else self._gap or self._step
        found = self._after(step) if stated is None else self._shown(stated, step or 0.0, frame.key_frame)
        if found is None or (self._last is not None and found <= self._last):
            return None
        if self._last is not None and stated is not None:
            self._gap = found - self._last
        self._last = found
        return found

    def _after(self, step: float | None) -> float | None:
        """The time of a frame that has none: so many steps after the last one that has."""
        if step is None:
            return None
        since, count = self._untimed or (self._last, 0)
        self._untimed = since, count + 1
        return count * step if since is None else since + (count + 1) * step

    def _shown(self, stated: int, step: float, key: bool) -> float:
        """A stated time; frames of one time share what is left until the next time, a step each at most."""
        time, count = self._same or (None, 0)
        count = count + 1 if time == stated else 0
        self._same = stated, count
        if not count or self._last is None or self.first is None:
            return self._placed(stated, step, key)
        ahead = [*self._waiting, *(self._time(packet) for packet in self.coming if packet.size)]
        room = min((one - stated for one in ahead if one is not None and one > stated), default=None)
        if room is not None:
            step = min(step or room * self.tick, room * self.tick / (count + 1 + ahead.count(stated)))
        return (stated - self.first) * self.tick + self._moved + count * step

    def _time(self, packet: Packet) -> int | None:
        return packet.dts if packet.pts is None or self._by_decoding else packet.pts

    def _placed(self, stated: int, step: float, key: bool) -> float:
        """A stated time, moved to follow what was before where the times start again."""
        self._untimed = None
        self.first = stated if self.first is None else self.first
        found = (stated - self.first) * self.tick + self._moved
        if self._last is not None and self._starts_again(found, key):
            self._moved += self._last + step - found
            found = self._last + step
        return found

    def _starts_again(self, found: float, key: bool) -> bool:
        assert self._last is not None
        back = self._last - found
        if self._restarts and -back > JUMP_SECONDS:
            return True
        return back > JITTER_SECONDS or (back > 0 and key and not self._intra)
