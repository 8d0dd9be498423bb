"""Headers of a tar, read within bounds: a tar may be anybody's, and a few bytes of it can claim anything."""

from __future__ import annotations

import tarfile
from tarfile import (
    GNUTYPE_LONGLINK,
    GNUTYPE_LONGNAME,
    SOLARIS_XHDTYPE,
    XGLTYPE,
    XHDTYPE,
    ReadError,
    TarFile,
    TarInfo,
)
from typing import BinaryIO

END = 512
"""A tar ends with blocks of zeros; one that does not was cut off, which tarfile does not notice between members."""
LONG = (XHDTYPE, XGLTYPE, SOLARIS_XHDTYPE, GNUTYPE_LONGNAME, GNUTYPE_LONGLINK)
INVALID = (tarfile.InvalidHeaderError,)  # type: ignore[attr-defined]
"""Behind the first header tarfile takes one that is none for the end, and nobody sees what follows."""
MOST_HEADER = 1 << 20
"""Bytes of long names and further facts in one header; tarfile would read any number into memory."""


MOST_MEMBER = 1 << 43
"""Bytes that a member may claim: file systems have no place for more, and tarfile asks them for it (EINVAL)."""
MOST_EMPTY = 16
"""Reads behind the end of a stream: tarfile passes over what a header claims part by part, for hours, and sees none."""


class Watched:
    """A stream that remembers its last bytes, and is not read on and on behind its end."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.last, self._empty = stream, b"", 0

    def read(self, size: int = -1) -> bytes:
        part = self.stream.read(size)
        self._empty += not part
        if self._empty > MOST_EMPTY:
            raise ReadError("ends early")
        self.last = (self.last + part)[-END:] if len(part) < END else part[-END:]
        return part

    def is_whole(self) -> bool:
        while self.read(1 << 20):
            pass
        return self.last == bytes(END)


def forward(stream: Watched) -> TarFile:
    """A tar that is read member after member, within the bounds of this module."""
    return tarfile.open(fileobj=stream, mode="r|", tarinfo=Header)  # type: ignore[call-overload]


class Header(TarInfo):
    """A member's header, which costs no more memory than it may and always leads on in the tar."""

    def _proc_member(self, tar: TarFile) -> TarInfo:
        if self.type in LONG and self.size > MOST_HEADER:
            raise ReadError(f"a header of {self.size} bytes at byte {tar.offset}")
        return super()._proc_member(tar)  # type: ignore[misc]

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> Header:
        before = tarfile.offset
        try:
            found = super().fromtarfile(tarfile)
        except (*INVALID, ValueError, OverflowError, LookupError, RecursionError) as error:
            raise ReadError(f"a header at byte {before} that is none ({type(error).__name__})") from None
        if found.size > MOST_MEMBER:
            raise ReadError(f"a header at byte {before} of a member of {found.size} bytes")
        if found.size < 0 or tarfile.offset <= before:
            raise ReadError(f"a header at byte {before} of a size that leads back")
        return found
