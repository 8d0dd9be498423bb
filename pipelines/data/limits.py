"""How much one file may hold or cost, and the reason codes of files that cannot be used."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path


class VideoError(ValueError):
    """A file cannot be used as a video. ``reason`` is a code for tables, the message says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Limits:
    """Most that one file may hold: pixels per frame, decoded frames, seconds, bytes; and how long decoding may take.

    Decoding time is seconds of this process's processor time, so that a busy machine refuses nothing.
    """

    max_pixels: int = 4096 * 2304
    max_frames: int = 200_000
    max_seconds: float = 3 * 3600.0
    max_bytes: int = 1 << 36
    max_decode_seconds: float = 3600.0


def check_bytes(path: Path, limits: Limits) -> None:
    """Refuse a file before it is read.

    Raises:
        VideoError: there is no such file, or it is over the limit.
    """
    if not path.is_file():
        raise VideoError("missing", f"no such file: {path}")
    if path.stat().st_size > limits.max_bytes:
        raise VideoError("too_many_bytes", f"{path.stat().st_size} bytes; at most {limits.max_bytes} are allowed")


class Clock:
    """Processor time that this thread spends in decoding: it stands still while the caller works on a frame."""

    def __init__(self, most: float) -> None:
        self.most, self.since = most, time.thread_time()
        self._stopped = self.since

    def stop(self) -> None:
        """The caller has the frame now.

        Raises:
            VideoError: the time is spent.
        """
        self._stopped = time.thread_time()
        if self._stopped - self.since > self.most:
            raise VideoError("too_slow", f"decoding took more than {self.most:g} s")

    def go_on(self) -> None:
        """The caller wants the next one."""
        self.since += time.thread_time() - self._stopped
