"""WebDataset tars of videos, from disk or by URL: streamed once, a few videos at a time on this machine's disk.

A sample is the members that share a name up to the first dot: ``a1.mp4`` with ``a1.txt`` or ``a1.json``. No member's
name is ever used as a path.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from pipelines.data.address import refusal, shown
from pipelines.data.limits import Limits, VideoError
from pipelines.data.stream import open_stream
from pipelines.data.video import SUFFIXES as VIDEOS
from pipelines.footage.captions import MAX_BYTES, caption_in
from pipelines.footage.params import Tars
from pipelines.footage.sources import Found, Reel, limits_of, open_file
from pipelines.stage import StageError

KEY = "raw_video.source.tars.urls"
COUNTED = re.compile(r"\{(\d+)\.\.(\d+)\}")
END = 512
"""A tar ends with blocks of zeros; one that does not was cut off, which tarfile does not notice between members."""


def expand(urls: Sequence[str]) -> list[str]:
    """``clips-{000..012}.tar`` as thirteen names, zeros kept.

    Raises:
        StageError: the range counts down.
    """
    found = []
    for url in urls:
        parts, ranges = COUNTED.split(url)[::3], COUNTED.findall(url)
        counts = []
        for low, high in ranges:
            if int(low) > int(high):
                raise StageError(f"{KEY}: {{{low}..{high}}} counts down; write {{{high}..{low}}}.")
            counts.append([f"{number:0{len(low)}d}" for number in range(int(low), int(high) + 1)])
        for chosen in itertools.product(*counts):
            found.append("".join(itertools.chain(*itertools.zip_longest(parts, chosen, fillvalue=""))))
    return found


def tar_name(url: str) -> str:
    """What the sources of a tar's clips begin with."""
    return PurePosixPath(urlsplit(url).path).name or shown(url)


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


class _Sample:
    """The members of one key, as far as they were read; the video lies in a file of its own until it is closed."""

    def __init__(self, key: str, path: Path) -> None:
        self.key, self.path = key, path
        self.name = ""
        self.problem: VideoError | None = VideoError("not_video", "the sample has no video member")
        self.texts: dict[str, bytes] = {}

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo, limits: Limits) -> None:
        suffix = PurePosixPath(member.name).suffix.lower()
        stream = tar.extractfile(member)
        if stream is None:
            return
        if suffix in (".txt", ".json"):
            self.texts[suffix] = stream.read(MAX_BYTES + 1)
        elif _is_video(member.name) and not self.name:
            self.name = member.name
            if member.size > limits.max_bytes:
                self.problem = VideoError("too_many_bytes", f"{member.size} bytes; at most {limits.max_bytes} allowed")
                return
            with self.path.open("wb") as spool:
                shutil.copyfileobj(stream, spool, 1 << 20)
            self.problem = None

    def caption(self) -> str:
        for suffix in (".txt", ".json"):
            if suffix in self.texts:
                return caption_in(self.texts[suffix], self.key + suffix)
        return ""

    def digest(self) -> str:
        if self.problem is not None:
            raise self.problem
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def close(self) -> None:
        self.path.unlink(missing_ok=True)

    def open(self, frame_rate: float, limits: Limits, digest: str) -> Reel:
        return open_file(self.path, False, frame_rate, limits, digest)


def _samples(stream: _Watched, limits: Limits, places: Iterator[Path]) -> Iterator[_Sample]:
    """The samples of one tar, in order; each lies in its place until it is closed.

    Raises:
        tarfile.TarError: it is no tar, or ends early.
    """
    sample: _Sample | None = None
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
            for member in tar:
                if not member.isfile():
                    continue
                key = _key(member.name)
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield sample
                    sample = _Sample(key, next(places))
                sample.add(tar, member, limits)
        if not stream.is_whole():
            raise tarfile.ReadError("ends early")
    except tarfile.TarError:
        if sample is not None:
            sample.close()
        raise
    if sample is not None:
        yield sample


def _key(member: str) -> str:
    path = PurePosixPath(member)
    return str(path.parent / path.name.partition(".")[0])


def _is_video(member: str) -> bool:
    return PurePosixPath(member).suffix.lower() in VIDEOS


def listed_samples(path: Path) -> list[str]:
    """The names of a tar's samples as :func:`tar_samples` gives them, from its headers: no member is read.

    What is no whole tar is named by itself, in place of the sample at its end.

    Raises:
        OSError: it cannot be opened.
    """
    members: list[str] = []
    with path.open("rb") as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                members.extend(member.name for member in tar if member.isfile())
            stream.seek(-END, os.SEEK_END)
            whole = stream.read() == bytes(END)
        except tarfile.TarError:
            whole = False
    samples = itertools.groupby(members, _key)
    names = [f"{path.name}/{next(filter(_is_video, inside), key)}" for key, inside in samples]
    return names if whole else [*names[:-1], path.name]


def _broken(name: str, place: int, total: int, error: VideoError) -> Found:
    def refuse(*_: str) -> Any:
        raise error

    return Found(name, place, total, False, refuse, "", refuse, None, refuse)


def tar_samples(params: Tars, frame_rate: float, spool: Path) -> Iterator[Found]:
    """The videos of all tars. A tar that is none or ends early is a refusal; one that cannot be reached is an error.

    Each video lies in the folder ``spool`` until it is closed.

    Raises:
        StageError: a tar cannot be opened or read.
    """
    limits, urls, count = limits_of(params), expand(params.urls), 0
    places = (spool / f"video-{number}" for number in itertools.count())
    for place, url in enumerate(urls):
        name = tar_name(url)
        with _opened(url) as stream:
            before = count
            try:
                for sample in _samples(stream, limits, places):
                    if count == params.max_samples:
                        return
                    count += 1
                    yield _found(
                        sample, f"{name}/{sample.name or sample.key}", (place, len(urls)), (frame_rate, limits)
                    )
            except tarfile.TarError as error:
                text = f"no whole tar after {count - before} samples ({error})"
                yield _broken(name, place + 1, len(urls), VideoError("damaged_tar", text))


def _found(sample: _Sample, name: str, progress: tuple[int, int], how: tuple[float, Limits]) -> Found:
    opened: Callable[[str], Reel] = partial(sample.open, *how)
    absent = f"no .txt or .json for {sample.key}"
    return Found(name, *progress, False, sample.caption, absent, sample.digest, None, opened, sample.close)


@contextlib.contextmanager
def _opened(url: str) -> Iterator[_Watched]:
    """A tar by path or URL; what the file system or the network says becomes a message.

    Raises:
        StageError: it cannot be opened or read.
    """
    try:
        with open_stream(url) as stream:
            yield _Watched(stream)
    except Exception as error:
        reason = None if isinstance(error, VideoError | StageError) else refusal(url, error)
        if reason is None:
            raise
        raise StageError(
            f"{KEY}: {shown(url)}: cannot be read: {reason.rstrip('.')}.\n"
            "Check the address and run again; what was cut already is kept."
        ) from None
