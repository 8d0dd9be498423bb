"""The log of a job that runs elsewhere, line by line as it comes over the shared disk."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

SHOWN_BEFORE = 4096
"""Bytes of what a job has already said that one who takes it up is shown."""


class Tail:
    """What is new in a file since the last look; whole lines only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rest = b""
        self._at = 0
        with contextlib.suppress(OSError):
            size = path.stat().st_size
            self._at = max(0, size - SHOWN_BEFORE)
            if self._at:  # begins with a line, not in one
                self._at += path.read_bytes()[self._at :].find(b"\n") + 1

    def lines(self) -> list[str]:
        """Lines that have been ended since the last look."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._at)
                new = stream.read()
        except OSError:  # not written yet, or the share is away for a moment
            return []
        self._at += len(new)
        *whole, self._rest = (self._rest + new).split(b"\n")
        return [line.decode("utf-8", "replace") for line in whole]

    def show(self) -> None:
        """Print them; a terminal that is gone stops nothing."""
        for line in self.lines():
            with contextlib.suppress(OSError, ValueError):
                print(line, file=sys.stdout, flush=True)
