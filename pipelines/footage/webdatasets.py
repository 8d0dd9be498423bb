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
from pipelines.footage.archive import DAMAGED, not_downloaded, taken_out, unpacked
from pipelines.footage.captions import MAX_BYTES, NotHere, Told, sidecar_in
from pipelines.footage.columns import metadata_of
from pipelines.footage.found import Found, Reel, refused
from pipelines.footage.members import is_wanted
from pipelines.footage.params import Webdataset
from pipelines.footage.reels import open_file
from pipelines.footage.sources import limits_of
from pipelines.footage.tar_headers import Watched, forward
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

    limits, urls = limits_of(params), expand(params.urls, KEY)
    places, read = (spool / f"sample-{number}" for number in itertools.count()), 0
    for place, url in enumerate(urls):
        name = tar_name(url)
        with opened(url, KEY) as stream:
            before = read
            try:
                for sample in group_by_keys(members(stream, params, limits, places)):
                    if read == params.max_samples:
                        return
                    read += 1
                    yield _found(sample, params, name, (place, len(urls)), (frame_rate, limits))
            except (*DAMAGED, ValueError) as error:  # the library's word for a name that stands twice
                text = f"no whole tar after {read - before} samples ({error.args[0] if error.args else error})"
                yield refused(name, place + 1, len(urls), VideoError("damaged_tar", text))


def members(
    stream: io.BufferedReader, params: Webdataset, limits: Limits, places: Iterator[Path]
) -> Iterator[dict[str, Any]]:
    """What the library groups: name, content (or why it is none) and address of every member; foreign fields are empty.

    The content of a picture or video is where it lies: the next of ``places``.

    Raises:
        DAMAGED: it is no tar, or ends early.
    """
    from webdataset.tariterators import base_plus_ext

    media, texts = params.media.lower(), {"json", (params.captions or "").lower()}
    with forward(Watched(unpacked(stream))) as tar:
        for member in tar:
            key, field = base_plus_ext(member.name)
            if not member.isreg() or not is_wanted(member.name) or key is None:
                continue
            field = str(field).lower()
            content: Any = _media(tar, member, limits, places) if field == media else b""
            content = _text(tar, member) if field in texts and field != media else content
            yield {"fname": member.name, "__url__": "", "data": content}
            tar.members = []  # else every header stays in memory  # pyright: ignore[reportAttributeAccessIssue]


def _refused(member: tarfile.TarInfo, most: int) -> VideoError | None:
    if member.issparse():  # a few bytes can stand for any number of zeros
        return VideoError("sparse_member", f"{member.name} is stored with holes; make the tar without --sparse")
    if member.size > most:
        return VideoError("too_large", f"{member.name}: {member.size} bytes; at most {most} are allowed")
    return None


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | VideoError:
    file = tar.extractfile(member)
    return _refused(member, MAX_BYTES) or (b"" if file is None else file.read())


def _media(tar: tarfile.TarFile, member: tarfile.TarInfo, limits: Limits, places: Iterator[Path]) -> Path | VideoError:
    refusal = _refused(member, limits.max_bytes)
    return refusal if refusal is not None else taken_out(tar, member, next(places))


def _found(
    sample: dict[str, Any],
    params: Webdataset,
    tar: str,
    progress: tuple[int, int],
    how: tuple[float, Limits],
) -> Found:
    content = sample.get(params.media.lower())
    if content is None:
        fields = ", ".join(sorted(name for name in sample if not name.startswith("__")))
        lacking = VideoError("not_video", f"the sample has no field {params.media}; it has {fields}")
        content = not_downloaded([one for one in sample.values() if isinstance(one, bytes)]) or lacking
    place = f"{tar}/{sample['__key__']}.{params.media}"

    def whole() -> Path:
        if isinstance(content, VideoError):
            raise content
        return content

    def digest() -> str:
        with whole().open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def read(frame_rate: float, limits: Limits, known: str) -> Reel:
        return open_file(whole(), params.still, frame_rate, limits, known)

    told = partial(_told, sample.get((params.captions or "").lower()), params, place)
    if isinstance(content, NotHere):
        return refused(storable_text(place), *progress, content)
    absent = f"no field {params.captions} in the sample" if params.captions else "captions is null"
    size = content.stat().st_size if isinstance(content, Path) else 0

    def close() -> None:
        if isinstance(content, Path):
            content.unlink(missing_ok=True)

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
