"""Checksums that a container keeps of its packets, compared where they are read: damage that no decoder notices.

Matroska may have a CRC-32 of each cluster (RFC 9559, RFC 8794 11.3.1); FFmpeg writes it into .mkv, not into WebM, and
does not compare it. Ogg's and FLAC's checksums are FFmpeg's own business.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import BinaryIO

from pipelines.data.limits import VideoError

SEGMENT, CLUSTER = 0x18538067, 0x1F43B675
CRC = b"\xbf\x84"
"""A CRC-32 element of four bytes; where there is one, it is the first in its cluster."""
PIECE = 1 << 20


def number(file: BinaryIO, keep: bool) -> int | None:
    """EBML's variable-length number; ``keep`` its length marker, as ids do. None: it says unknown.

    Raises:
        IndexError: the file ends inside it.
    """
    first = file.read(1)[0]
    width = 9 - first.bit_length()
    rest = file.read(width - 1)
    if len(rest) < width - 1:
        raise IndexError
    value = int.from_bytes(bytes([first if keep else first & ((1 << (8 - width)) - 1)]) + rest, "big")
    return None if not keep and value == (1 << (7 * width)) - 1 else value


def enter_segment(file: BinaryIO) -> int | None:
    """Go to the first element of a Matroska file's segment, and its length; None: the head states none.

    Raises:
        IndexError: the file ends before it.
    """
    file.seek(0)
    while True:
        found, length = number(file, keep=True), number(file, keep=False)
        if found == SEGMENT:
            return length
        file.seek(length or 0, os.SEEK_CUR)


class Clusters:
    """The clusters of a Matroska file, each compared with its checksum when the first packet of it is read."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._end = -1
        """Where the last cluster that was looked at ends."""
        try:
            enter_segment(self._file)
        except (IndexError, OSError):  # an OSError: a length that leads where no file can end
            self.close()

    def close(self) -> None:
        """Read no more of the file."""
        self._file.close()

    def check(self, place: int | None) -> None:
        """Look at the cluster that holds this byte of the file.

        Raises:
            VideoError: its checksum does not fit.
        """
        try:
            while place is not None and place >= self._end and not self._file.closed:
                self._next(place)
        except (IndexError, OSError):  # no element any more, or one without an end: nothing can be told
            self.close()

    def _next(self, place: int) -> None:
        kind, length = number(self._file, keep=True), number(self._file, keep=False)
        if length is None:
            raise IndexError
        begin = self._file.tell()
        self._end = begin + length
        if kind == CLUSTER and begin <= place < self._end and not self._fits(length):
            raise VideoError("decode_error", f"its bytes {begin} to {self._end} do not fit their checksum")
        self._file.seek(self._end)

    def _fits(self, length: int) -> bool:
        head = self._file.read(6)
        if head[:2] != CRC or length < 6:
            return True
        found, left = 0, length - 6
        while left and (piece := self._file.read(min(PIECE, left))):
            found, left = zlib.crc32(piece, found), left - len(piece)
        return found == int.from_bytes(head[2:], "little")
