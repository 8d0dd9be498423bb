"""WebDataset tars of videos, from disk or by URL: read once, a few videos at a time on this machine's disk.

A tar on this disk is read by its headers, so that its members may stand in any order; one by URL is streamed, and the
members of a sample must follow one another. See :mod:`pipelines.footage.archive`, for compressed ones
:mod:`pipelines.footage.packed_tars`.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pipelines.data.address import refusal, shown
from pipelines.data.limits import Limits, VideoError
from pipelines.data.stream import open_stream
from pipelines.footage.archive import DAMAGED, Sample, TarReader, headers, in_order, indexed, is_packed, streamed
from pipelines.footage.captions import SIDECARS
from pipelines.footage.found import Found, Reel, refused
from pipelines.footage.members import plans
from pipelines.footage.packed_tars import packed_samples
from pipelines.footage.params import Tars
from pipelines.footage.sources import limits_of
from pipelines.stage import StageError
from pipelines.textfile import storable_text

KEY = "raw_video.source.tars.urls"
COUNTED = re.compile(r"\{(\d+)\.\.(\d+)\}")
NUMBERED = re.compile(r"^(.*?)(\d+)(\D*)$")


def expand(urls: Sequence[str], key: str = KEY) -> list[str]:
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
                raise StageError(f"{key}: {{{low}..{high}}} counts down; write {{{high}..{low}}}.")
            counts.append([f"{number:0{len(low)}d}" for number in range(int(low), int(high) + 1)])
        for chosen in itertools.product(*counts):
            found.append("".join(itertools.chain(*itertools.zip_longest(parts, chosen, fillvalue=""))))
    return found


def counted(urls: Sequence[str]) -> list[str]:
    """``a-000.tar``, ``a-001.tar`` as ``a-{000..001}.tar``, where numbers follow one another; else the names."""
    found = [NUMBERED.match(url) for url in urls]
    if len(urls) > 1 and all(found):
        parts = [match.groups() for match in found if match]
        numbers = [int(number) for _, number, _ in parts]
        same = len({(before, len(number), after) for before, number, after in parts}) == 1
        if same and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            before, first, after = parts[0]
            return [f"{before}{{{first}..{parts[-1][1]}}}{after}"]
    return list(urls)


def tar_name(url: str) -> str:
    """What the sources of a tar's clips begin with."""
    return PurePosixPath(urlsplit(url).path).name or shown(url)


def listed_samples(path: Path) -> list[str]:
    """The names of a tar's samples as :func:`tar_samples` gives them, from its headers: no member is read.

    What is no whole tar is named by itself, in place of the sample at its end.

    Raises:
        OSError: it cannot be opened.
    """
    members, problem = headers(path)
    names = [member.name for member in members]
    found = [
        storable_text(f"{path.name}/{plan.name}")
        for places, again in in_order(names, problem is None)
        for plan in plans([names[place] for place in places], again)
    ]
    return found if problem is None else [*found, path.name]


def tar_samples(params: Tars, frame_rate: float, spool: Path) -> Iterator[Found]:
    """The videos of all tars. A tar that is none or ends early is a refusal; one that cannot be reached is an error.

    Each video lies in the folder ``spool`` until it is closed.

    Raises:
        StageError: a tar cannot be opened or read.
    """
    limits, urls, count = limits_of(params), expand(params.urls), 0
    reader = TarReader(limits, (spool / f"video-{number}" for number in itertools.count()))
    for place, url in enumerate(urls):
        name = tar_name(url)
        with opened(url) as stream:
            before = count
            try:
                for sample in _samples(url, stream, reader, spool):
                    if count == params.max_samples:
                        sample.close()
                        return
                    count += 1
                    yield _found(sample, f"{name}/{sample.plan.name}", (place, len(urls)), (frame_rate, limits))
            except DAMAGED as error:
                text = f"no whole tar after {count - before} samples ({error})"
                yield refused(name, place + 1, len(urls), VideoError("damaged_tar", text))


def _samples(url: str, stream: io.BufferedReader, reader: TarReader, spool: Path) -> Iterator[Sample]:
    if urlsplit(url).scheme:
        return streamed(stream, reader)
    return packed_samples(Path(url), reader, spool) if is_packed(stream) else indexed(Path(url), reader)


def _found(sample: Sample, name: str, progress: tuple[int, int], how: tuple[float, Limits]) -> Found:
    opened: Callable[[str], Reel] = partial(sample.open, *how)
    absent = f"no text in {PurePosixPath(name).stem}{SIDECARS[0]} (or {', '.join(SIDECARS[1:])}) of the tar"
    name = storable_text(name)
    told, digest, close = sample.told, sample.digest, sample.close
    return Found(name, *progress, False, told, absent, digest, None, opened, close, sample.spooled)


@contextlib.contextmanager
def opened(url: str, key: str = KEY) -> Iterator[io.BufferedReader]:
    """A tar by path or URL; what the file system or the network says becomes a message.

    Raises:
        StageError: it cannot be opened or read.
    """
    try:
        with open_stream(url) as stream:
            yield stream
    except Exception as error:
        reason = None if isinstance(error, VideoError | StageError) else refusal(url, error)
        if reason is None:
            raise
        raise StageError(
            f"{key}: {shown(url)}: cannot be read: {reason.rstrip('.')}.\n"
            "Check the address and run again; what was cut already is kept."
        ) from None
