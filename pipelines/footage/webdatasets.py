"""WebDataset tars by their fields, through the webdataset library: pictures or videos, captions by a mapping of names.

A tar is streamed once, from disk or by URL. The library says what a sample is: members that follow one another and have
one key, the name up to its first dot; what stands behind it is the field. params.yaml states which field is what.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.data.limits import Limits, VideoError
from pipelines.footage.archive import DAMAGED, not_downloaded, unpacked
from pipelines.footage.captions import MAX_BYTES, NotHere, Told, sidecar_in
from pipelines.footage.columns import metadata_of
from pipelines.footage.found import Found, Reel, refused
from pipelines.footage.members import is_wanted
from pipelines.footage.params import Webdataset
from pipelines.footage.reels import open_file
from pipelines.footage.sources import limits_of
from pipelines.footage.tars import expand, opened, tar_name
from pipelines.textfile import TextError, decoded, one_line, storable_text

KEY = "raw_video.source.webdataset.urls"


def webdataset_samples(params: Webdataset, frame_rate: float, spool: Path) -> Iterator[Found]:
    """The samples of all tars; a tar that is none or ends early is a refusal, one out of reach is an error.

    A sample's picture or video lies in the folder ``spool`` until it is closed.

    Raises:
        StageError: a tar cannot be opened or read.
    """
    from webdataset.tariterators import group_by_keys

    limits, urls, count = limits_of(params), expand(params.urls, KEY), itertools.count()
    read = 0
    for place, url in enumerate(urls):
        name = tar_name(url)
        with opened(url, KEY) as stream:
            before = read
            try:
                for sample in group_by_keys(members(stream, params, limits)):
                    if read == params.max_samples:
                        return
                    read += 1
                    path = spool / f"sample-{next(count)}"
                    yield _found(sample, params, name, (place, len(urls)), path, (frame_rate, limits))
            except (*DAMAGED, ValueError) as error:  # the library's word for a name that stands twice
                text = f"no whole tar after {read - before} samples ({error.args[0] if error.args else error})"
                yield refused(name, place + 1, len(urls), VideoError("damaged_tar", text))


def members(stream: io.BufferedReader, params: Webdataset, limits: Limits) -> Iterator[dict[str, Any]]:
    """What the library groups: name, content (or why it is none) and address of every member; foreign fields are empty.

    Raises:
        DAMAGED: it is no tar, or ends early.
    """
    from webdataset.tariterators import base_plus_ext

    most = {"json": MAX_BYTES, params.media.lower(): limits.max_bytes, (params.captions or "").lower(): MAX_BYTES}
    with tarfile.open(fileobj=unpacked(stream), mode="r|") as tar:
        for member in tar:
            key, field = base_plus_ext(member.name)
            if not member.isreg() or not is_wanted(member.name) or key is None:
                continue
            yield {"fname": member.name, "__url__": "", "data": _content(tar, member, most.get(str(field).lower()))}
            tar.members = []  # else every header stays in memory  # pyright: ignore[reportAttributeAccessIssue]


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, most: int | None) -> bytes | VideoError:
    if most is None:
        return b""
    if member.issparse():  # a few bytes can stand for any number of zeros
        return VideoError("sparse_member", f"{member.name} is stored with holes; make the tar without --sparse")
    if member.size > most:
        return VideoError("too_large", f"{member.name}: {member.size} bytes; at most {most} are allowed")
    file = tar.extractfile(member)
    return b"" if file is None else file.read()


def _found(
    sample: dict[str, Any],
    params: Webdataset,
    tar: str,
    progress: tuple[int, int],
    path: Path,
    how: tuple[float, Limits],
) -> Found:
    content = sample.get(params.media.lower())
    if content is None:
        fields = ", ".join(sorted(name for name in sample if not name.startswith("__")))
        lacking = VideoError("not_video", f"the sample has no field {params.media}; it has {fields}")
        content = not_downloaded([one for one in sample.values() if isinstance(one, bytes)]) or lacking
    if isinstance(content, bytes):
        path.write_bytes(content)
    place = f"{tar}/{sample['__key__']}.{params.media}"

    def whole() -> Path:
        if isinstance(content, VideoError):
            raise content
        return path

    def digest() -> str:
        whole()
        return hashlib.sha256(content).hexdigest()  # type: ignore[arg-type]

    def read(frame_rate: float, limits: Limits, known: str) -> Reel:
        return open_file(whole(), params.still, frame_rate, limits, known)

    told = partial(_told, sample.get((params.captions or "").lower()), params, place)
    if isinstance(content, NotHere):
        return refused(storable_text(place), *progress, content)
    absent = f"no field {params.captions} in the sample" if params.captions else "captions is null"
    size = len(content) if isinstance(content, bytes) else 0
    close = partial(path.unlink, missing_ok=True)
    opens = partial(read, *how)
    return Found(storable_text(place), *progress, params.still, told, absent, digest, None, opens, close, size)


def _told(content: bytes | VideoError | None, params: Webdataset, place: str) -> Told:
    """What the field of captions says.

    Raises:
        VideoError: it cannot be read, or has no text where it is said to be.
    """
    if isinstance(content, VideoError):
        raise content
    if content is None or params.captions is None:
        return Told()
    name = f"{place.rpartition('/')[2].removesuffix(params.media)}{params.captions}"
    if params.caption is None:
        return sidecar_in(content, name)
    try:
        values = json.loads(decoded(content))
    except (ValueError, RecursionError, TextError):
        raise VideoError("bad_caption", f"{name}: is no json") from None
    if not isinstance(values, dict) or not isinstance(values.get(params.caption), str):
        there = ", ".join(values) if isinstance(values, dict) else type(values).__name__
        raise VideoError("bad_caption", f"{name}: has no text under {params.caption}; it has {there}")
    return Told(one_line(values[params.caption]), metadata_of(values, {params.caption}))
