"""Where a clip's mp4 lies: in a file of its own, or, where clips are many, as a member of a tar of clips.

A file for each clip is what file systems and DVC bear least: DVC lists and hashes every one. The catalog says of each
clip which file it is in and, of a tar, where its member begins, so that any clip is read at any time.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.catalog import TAR_OFFSET
from pipelines.data.limits import VideoError
from pipelines.data.tar import BLOCK, members
from pipelines.data.video import read_clip
from pipelines.data.written import read_written

FACTS = ("key", "file", TAR_OFFSET, "num_frames", "height", "width")
"""Columns of the catalog that a clip is read by; a tar's offset only where clips lie in tars."""


@dataclass(frozen=True)
class Place:
    """The mp4 of the clip ``key``: the file itself, or a member of the tar that ``file`` is."""

    key: str
    file: Path
    offset: int | None = None

    def content(self) -> bytes:
        """The bytes of the mp4.

        Raises:
            VideoError: the tar does not hold the clip there.
            OSError: there is no such file.
        """
        if self.offset is None:
            return self.file.read_bytes()
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            header = stream.read(BLOCK)
            try:
                name, _, length = next(members(header, 0, BLOCK))
            except (ValueError, IndexError) as error:
                raise VideoError("decode_error", f"no member begins at byte {self.offset} ({error})") from None
            if name != member(self.key):
                raise VideoError("decode_error", f"at byte {self.offset} begins {name}")
            content = stream.read(length)
        if len(content) != length:
            raise VideoError("truncated", f"{len(content)} of {length} bytes at byte {self.offset}")
        return content

    @contextlib.contextmanager
    def as_file(self) -> Iterator[Path]:
        """A path at which the mp4 lies: its own, or that of a temporary copy.

        Raises:
            VideoError: as :meth:`content`; the tar is not there.
        """
        if self.offset is None:
            yield self.file
            return
        try:
            content = self.content()
        except (FileNotFoundError, PermissionError) as error:
            raise VideoError("missing", f"{self.file}: {error.strerror}") from None
        with _nameless() as stream:
            stream.write(content)
            stream.flush()
            yield Path(stream.name if isinstance(stream.name, str) else f"/proc/self/fd/{stream.name}")


def _nameless() -> Any:
    """A file that is gone when it is closed: in memory where the system can (Linux), which costs a tenth."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("clip"), "wb")
    return tempfile.NamedTemporaryFile(suffix=".mp4")


def member(key: str) -> str:
    """The name of a clip's member in a tar."""
    return f"{key}.mp4"


def place(folder: Path, clip: Any) -> Place:
    """Where a clip of a folder lies, by its row of the catalog (a mapping or a pandas row)."""
    offset = clip.get(TAR_OFFSET)
    return Place(str(clip["key"]), folder / str(clip["file"]), None if offset is None else int(offset))


def read_stored(folder: Path, clip: Any) -> np.ndarray:
    """All frames of a clip by its row of the catalog: uint8 [T, H, W, 3], RGB, in memory of any order.

    Raises:
        VideoError: as :func:`pipelines.data.video.read_clip`; a tar does not hold it where the catalog says.
    """
    with place(folder, clip).as_file() as path:
        found = read_written(path, int(clip["num_frames"]), int(clip["height"]), int(clip["width"]))
        return read_clip(path) if found is None else found
