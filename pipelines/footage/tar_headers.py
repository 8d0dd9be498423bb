"""Headers of a tar, read within bounds: a tar may be anybody's, and a few bytes of it can claim anything."""

from __future__ import annotations

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

LONG = (XHDTYPE, XGLTYPE, SOLARIS_XHDTYPE, GNUTYPE_LONGNAME, GNUTYPE_LONGLINK)
MOST_HEADER = 1 << 20
"""Bytes of long names and further facts in one header; tarfile would read any number into memory."""


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
        except (ValueError, OverflowError, LookupError, RecursionError) as error:
            raise ReadError(f"a header at byte {before} that is none ({type(error).__name__})") from None
        if found.size < 0 or tarfile.offset <= before:
            raise ReadError(f"a header at byte {before} of a size that leads back")
        return found
