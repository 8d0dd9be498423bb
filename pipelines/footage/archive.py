"""One tar as samples: streamed member after member, or read by its headers in any order.

Which members make a sample is told in :mod:`pipelines.footage.members`. No member's name is ever used as a path.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from pipelines.data.endings import VIDEOS
from pipelines.data.limits import Limits, VideoError
from pipelines.footage.captions import MAX_BYTES, SIDECARS, NotHere, Told, together
from pipelines.footage.found import Reel
from pipelines.footage.members import SamplePlan, grouped, is_wanted, plans, taken_apart
from pipelines.footage.reels import open_file
from pipelines.footage.tar_headers import Header
from pipelines.textfile import storable_text

END = 512
"""A tar ends with blocks of zeros; one that does not was cut off, which tarfile does not notice between members."""
PACKED = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))
"""First bytes of compressed files, and what reads them."""
ZSTD = b"\x28\xb5\x2f\xfd"
DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
MOST_MEMBERS = 256
"""Of one key, that are looked at together."""


class _Watched:
    """A stream that remembers its last bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.last = stream, b""

    def read(self, size: int = -1) -> bytes:
        part = self.stream.read(size)
        self.last = (self.last + part)[-END:] if len(part) < END else part[-END:]
        return part

    def is_whole(self) -> bool:
        while self.read(1 << 20):
            pass
        return self.last == bytes(END)


def unpacked(stream: io.BufferedReader) -> BinaryIO:
    """The tar inside a compressed file; any other as it is.

    Raises:
        tarfile.ReadError: it is compressed in a way that is not read here.
    """
    first = stream.peek(8)[:8]
    if first.startswith(ZSTD):
        raise tarfile.ReadError("is compressed by zstd; unpack it: `zstd -d`")
    opener = next((opener for mark, opener in PACKED if first.startswith(mark)), None)
    return stream if opener is None else cast(BinaryIO, opener(stream))


def not_downloaded(texts: Iterable[bytes]) -> NotHere | None:
    """What video2dataset and img2dataset write of a file that they could not get; None where no text says so."""
    for content in texts:
        with contextlib.suppress(ValueError, RecursionError):
            said = json.loads(content)
            if isinstance(said, dict) and (said.get("error_message") or said.get("status") not in (None, "success")):
                text = " ".join(str(said[name]) for name in ("status", "error_message") if said.get(name))
                return NotHere("not_downloaded", storable_text(text)[:300])
    return None


@dataclass
class _Member:
    """One member as it was read: texts in memory, videos in a file of their own until they are closed."""

    name: str
    content: bytes = b""
    path: Path | None = None
    problem: VideoError | None = None

    def close(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)


@dataclass
class Sample:
    """A planned sample with its members."""

    plan: SamplePlan
    video: _Member | None
    texts: dict[str, bytes] = field(default_factory=dict)

    def told(self) -> Told:
        if self.plan.refusal is not None:
            raise not_downloaded(self.texts.values()) or self.plan.refusal
        return together(self.texts)

    def digest(self) -> str:
        with self._held().open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def _held(self) -> Path:
        """Where the video lies, if it could be taken out of the tar."""
        if self.video is None or self.video.path is None:
            problem = self.plan.refusal if self.video is None else self.video.problem
            raise problem or VideoError("not_video", "the sample has no video member")
        return self.video.path

    @property
    def spooled(self) -> int:
        """Bytes of this disk that it takes until it is closed."""
        path = None if self.video is None else self.video.path
        return path.stat().st_size if path is not None else 0

    def close(self) -> None:
        if self.video is not None:
            self.video.close()

    def open(self, frame_rate: float, limits: Limits, digest: str) -> Reel:
        return open_file(self._held(), False, frame_rate, limits, digest)


class TarReader:
    """Reads members of one tar and makes samples of those of one key."""

    def __init__(self, limits: Limits, places: Iterator[Path]) -> None:
        self.limits, self.places = limits, places

    def read(self, tar: tarfile.TarFile, member: tarfile.TarInfo, before: Sequence[_Member]) -> _Member:
        """A member, as far as a sample needs it; ``before``: those of its key so far, which count for the limit."""
        read = _Member(member.name)
        suffix = taken_apart(member.name).suffix
        stream = tar.extractfile(member) if suffix in (*SIDECARS, *VIDEOS) else None
        if stream is None:
            return read
        if member.issparse():  # a few bytes can stand for any number of zeros
            text = f"{member.name} is stored with holes; make the tar without --sparse"
            read.problem = VideoError("sparse_member", text)
            return read
        if suffix in SIDECARS:
            read.content = stream.read(MAX_BYTES + 1)
            return read
        held = sum(one.path.stat().st_size for one in before if one.path is not None)
        if member.size + held > self.limits.max_bytes:
            text = f"{member.size + held} bytes; at most {self.limits.max_bytes} allowed"
            read.problem = VideoError("too_many_bytes", text)
            return read
        read.path = next(self.places)
        free = shutil.disk_usage(read.path.parent).free
        if member.size > free:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {member.size} bytes of {member.name}", read.path)
        try:
            with read.path.open("wb") as spool:
                shutil.copyfileobj(stream, spool, 1 << 20)
            if read.path.stat().st_size != member.size:
                raise tarfile.ReadError("ends early")
        except BaseException:
            read.close()
            raise
        return read

    def samples(self, members: Sequence[_Member], again: bool) -> Iterator[Sample]:
        """The samples; a video that is in none of them is forgotten."""
        made = []
        for plan in plans([member.name for member in members], again):
            video = None if plan.video is None else members[plan.video]
            texts = {members[place].name: members[place].content for place in plan.texts}
            made.append(Sample(plan, video, texts))
        used = {id(sample.video) for sample in made}
        for member in members:
            if id(member) not in used:
                member.close()
        yield from made


def streamed(stream: io.BufferedReader, reader: TarReader) -> Iterator[Sample]:
    """The samples of one tar, in order, of members that follow one another.

    Raises:
        DAMAGED: it is no tar, or ends early.
    """
    members: list[_Member] = []
    seen: set[str] = set()
    lacking: set[str] = set()
    key, again = "", False

    def made() -> Iterator[Sample]:
        for sample in reader.samples(members, again) if members else ():
            if sample.plan.video is None and key in lacking:
                text = "its video came earlier in the tar; sort its members by name (`tar --sort=name`)"
                sample = Sample(SamplePlan(sample.plan.name, refusal=VideoError("unsorted_tar", text)), None)
            elif sample.plan.video is not None and not sample.texts:
                lacking.add(key)
            yield sample

    try:
        watched = _Watched(unpacked(stream))
        with tarfile.open(fileobj=watched, mode="r|", tarinfo=Header) as tar:  # type: ignore[call-overload]
            for member in tar:
                if not member.isfile() or not is_wanted(member.name):
                    continue
                own = taken_apart(member.name).key
                repeated = member.name in seen
                fresh = repeated and member.name in {one.name for one in members}
                if own != key or fresh or len(members) == MOST_MEMBERS:
                    yield from made()
                    members, key, again = [], own, False
                seen.add(member.name)
                again = again or repeated
                members.append(reader.read(tar, member, members))
        if not watched.is_whole():
            raise tarfile.ReadError("ends early")
    except DAMAGED:
        for member in members:
            member.close()
        raise
    yield from made()


def indexed(path: Path, reader: TarReader) -> Iterator[Sample]:
    """The samples of a tar on this disk, in the order of their first members.

    Raises:
        DAMAGED: it is no tar, or ends early; the samples before were given.
    """
    members, problem = headers(path)
    groups = in_order([member.name for member in members], whole=problem is None)
    if groups:
        yield from _read_groups(path, members, groups, reader)
    if problem is not None:
        raise problem


def _read_groups(
    path: Path, members: Sequence[tarfile.TarInfo], groups: Sequence[tuple[list[int], bool]], reader: TarReader
) -> Iterator[Sample]:
    with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:", tarinfo=Header) as tar:
        for places, again in groups:
            read: list[_Member] = []
            try:
                for place in places:
                    read.append(reader.read(tar, members[place], read))
            except DAMAGED:
                for member in read:
                    member.close()
                raise
            yield from reader.samples(read, again)


def headers(path: Path) -> tuple[list[tarfile.TarInfo], Exception | None]:
    """The files of a tar by its headers, and what is wrong with it. What is compressed is unpacked to be read."""
    members: list[tarfile.TarInfo] = []
    try:
        with path.open("rb") as stream:
            inside = unpacked(stream)
            watched = _Watched(inside)
            packed = inside is not stream
            source, mode = (watched, "r|") if packed else (stream, "r:")
            with tarfile.open(fileobj=source, mode=mode, tarinfo=Header) as tar:  # type: ignore[call-overload]
                members.extend(member for member in tar if member.isfile())
                ends = tar.offset
            if not packed:
                stream.seek(ends)
            if not (watched.is_whole() if packed else stream.read(END) == bytes(END)):
                return members, tarfile.ReadError("ends early")
    except DAMAGED as error:
        return members, error
    return members, None


def in_order(names: Sequence[str], whole: bool) -> list[tuple[list[int], bool]]:
    """The groups by their first members, and whether their names stood before; without the last one of a cut tar."""
    groups = [(places, number > 0) for many in grouped(names).values() for number, places in enumerate(many) if places]
    groups.sort(key=lambda one: one[0][0])
    if not whole and groups:
        last = max(range(len(groups)), key=lambda number: groups[number][0][-1])
        del groups[last]
    return groups


def is_packed(stream: io.BufferedReader) -> bool:
    """Whether a file is compressed."""
    return stream.peek(8).startswith((ZSTD, *(mark for mark, _ in PACKED)))
