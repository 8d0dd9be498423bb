"""Compressed tars on this disk: a stream where samples stand together, else unpacked once and read by its headers.

A compressed tar cannot be read in any order, so one that is sorted by type (all videos, then all texts) is unpacked
into the stage's work folder first; one look at its headers, which writes nothing, tells whether and how much.
"""

from __future__ import annotations

import io
import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from pipelines.footage.archive import DAMAGED, Sample, TarReader, headers, indexed, streamed, unpacked
from pipelines.footage.members import is_wanted, taken_apart

BLOCK = 512
PART = 1 << 20
FREE_SHARE = 0.5
"""Most of the free disk that an unpacked tar may take: the videos taken out of it need room, too."""


def packed_samples(path: Path, reader: TarReader, spool: Path) -> Iterator[Sample]:
    """The samples of a compressed tar; ``spool``: a folder on this disk, which takes the tar while it is read.

    What would not fit (the reader's limit on bytes, half of the free disk) is streamed: the texts of a sample that
    stand elsewhere in it are then refused with the remedy.

    Raises:
        DAMAGED: it is no tar, or ends early; the samples before were given.
    """
    members, _ = headers(path)
    size = max((member.offset_data + -(-member.size // BLOCK) * BLOCK for member in members), default=0)
    room = min(reader.limits.max_bytes, FREE_SHARE * shutil.disk_usage(spool).free)
    if stands_together([member.name for member in members]) or size + 2 * BLOCK > room:
        with path.open("rb") as stream:
            yield from streamed(stream, reader)
        return
    whole = spool / "unpacked.tar"
    try:
        _unpack(path, whole, size + 2 * BLOCK)
        yield from indexed(whole, reader)
    finally:
        whole.unlink(missing_ok=True)


def stands_together(names: Sequence[str]) -> bool:
    """Whether the members of every sample follow one another."""
    keys = [key for key, _ in itertools.groupby(taken_apart(name).key for name in names if is_wanted(name))]
    return len(keys) == len(set(keys))


def _unpack(path: Path, to: Path, size: int) -> None:
    """As much of the tar as its members take; where it is damaged, what comes before."""
    with path.open("rb") as stream, to.open("wb") as out:
        try:
            inside = cast(io.BufferedReader, unpacked(stream))
            while size > 0 and (part := inside.read1(min(size, PART))):  # read() would drop what precedes the damage
                out.write(part)
                size -= len(part)
        except DAMAGED:
            return  # the unpacked tar ends early, which its reader says
