"""A file by path or URL, read once from its beginning to its end; a transfer that breaks goes on where it stopped.

Over HTTP it is one request without a range, so it needs nothing of the server. After a break the rest is asked for;
from a server without ranges the file comes again, and what was read is passed over. A file that changed in between is
an error: its parts would not fit together.
"""

from __future__ import annotations

import contextlib
import io
import time
from typing import Any

import fsspec

from pipelines.data.address import GIVE_UP, PAUSE, TRIES, refusal, shown
from pipelines.stage import say

BUFFER = 1 << 20
SILENCE = 60.0
"""Seconds without an answer or without a byte after which a connection is given up and made again."""


class Stream(io.RawIOBase):
    """The file's bytes in order.

    Raises:
        OSError, ValueError, ImportError: it cannot be reached or read, after several tries where those could help.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.source: Any = None  # first, because what fails from here on is closed all the same
        self.url, self.position, self.version = url, 0, ""
        self.files, self.path = fsspec.core.url_to_fs(url)
        self._try(lambda: None)

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as bytes have come; 0 at the end."""
        part = self._try(lambda: self.source.read(len(buffer)))
        buffer[: len(part)] = part
        self.position += len(part)
        return len(part)

    def close(self) -> None:
        """Leave the source, too."""
        self._leave()
        super().close()

    def _leave(self) -> None:
        source, self.source = self.source, None
        if source is not None:
            with contextlib.suppress(Exception):  # what a broken connection says when it is closed
                source.close()

    def _try(self, read: Any) -> Any:
        """``read()`` of the opened source, which is opened again at its place when that fails."""
        for number in range(1, TRIES + 1):
            try:
                if self.source is None:
                    self._open()
                return read()
            except Exception as error:
                self._leave()
                reason = refusal(self.url, error)
                if reason is None or not _may_pass(error):
                    raise
                if number == TRIES:
                    raise OSError(f"{reason} (at byte {self.position}, {TRIES} times)") from error
                say(f"{shown(self.url)}: {reason}; goes on at byte {self.position}")
            time.sleep(PAUSE * 2 ** (number - 1))
        raise AssertionError("the last try returns or raises")

    def _open(self) -> None:
        """The source, at the place where reading goes on."""
        protocols = self.files.protocol
        if "http" not in ((protocols,) if isinstance(protocols, str) else protocols):
            self.source = self.files.open(self.path, "rb")
            self.source.seek(self.position)
            return
        import aiohttp  # what fsspec needs for HTTP; only here, because it is slow to import

        headers = {"Accept-Encoding": "identity"}
        headers |= {"Range": f"bytes={self.position}-"} if self.position else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
        # the size is asked for nowhere: not every server answers that question
        self.source = self.files.open(self.path, block_size=0, size=1, headers=headers, timeout=timeout)
        answer = self.source.r
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if self.position and version != self.version:
            raise ChangedError("the file changed while it was read")
        self.version = version
        if self.position and not answer.headers.get("Content-Range", "").startswith(f"bytes {self.position}-"):
            self._pass_over(self.position)

    def _pass_over(self, count: int) -> None:
        while count:
            part = self.source.read(min(count, BUFFER))
            if not part:
                raise ChangedError("the file became shorter while it was read")
            count -= len(part)


class ChangedError(ValueError):
    """The file is not the one whose beginning was read."""


def _may_pass(error: Exception) -> bool:
    """Whether another try could help: not where there is no such file, no right to it, or a plain refusal."""
    status = getattr(error, "status", None)
    return not isinstance(error, (*GIVE_UP, ChangedError)) and (status is None or status >= 500 or status in (408, 429))


def open_stream(url: str) -> io.BufferedReader:
    """A file to be read once, in order.

    Raises:
        OSError, ValueError, ImportError: as :class:`Stream`.
    """
    return io.BufferedReader(Stream(url), BUFFER)
