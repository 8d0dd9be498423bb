"""Whether tars hold videos or pictures, and in which of their fields: told by the first members."""

from __future__ import annotations

import itertools
import re
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipelines.data.endings import PICTURES, VIDEOS
from pipelines.data.limits import VideoError
from pipelines.footage.archive import DAMAGED, unpacked
from pipelines.footage.captions import MAX_BYTES, sidecar_in
from pipelines.footage.members import is_wanted
from pipelines.footage.tars import opened
from pipelines.stage import StageError

FIRST = 64
"""Members that are looked at."""
FIELD = re.compile(r"[^.]+\.(.+)")
"""What stands behind a name's first dot, as WebDataset takes names apart."""


@dataclass(frozen=True)
class PictureFields:
    """The fields of tars of pictures: of the picture and of its text, None where there is none."""

    media: str
    captions: str | None


def pictures_in(url: str) -> PictureFields | None:
    """The fields of a tar by path or URL that holds pictures and no video; None: it holds videos, or is damaged.

    Raises:
        StageError: it cannot be read, or is compressed in a way that is not read here.
    """
    fields: Counter[str] = Counter()
    captioned: dict[str, bool] = {}
    with opened(url) as stream:
        try:
            with tarfile.open(fileobj=unpacked(stream), mode="r|") as tar:
                for member in itertools.islice(tar, FIRST):
                    match = FIELD.fullmatch(PurePosixPath(member.name).name)
                    if not member.isreg() or not is_wanted(member.name) or match is None:
                        continue
                    field = match[1].lower()
                    fields[field] += 1
                    if field in ("txt", "json") and not captioned.get(field) and member.size <= MAX_BYTES:
                        captioned[field] = _has_caption(tar, member)
        except DAMAGED as error:
            if "zstd" in str(error):
                raise StageError(f"{url}: {error}, then `reel use` what comes out.") from None
            return None  # what is whole of it is read, and the rest is told then
    pictures = [field for field, _ in fields.most_common() if f".{field}".endswith(PICTURES)]
    if not pictures or any(f".{field}".endswith(VIDEOS) for field in fields):
        return None
    return PictureFields(pictures[0], next((field for field in ("json", "txt") if captioned.get(field)), None))


def _has_caption(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
    file = tar.extractfile(member)
    try:
        return file is not None and bool(sidecar_in(file.read(), member.name).caption)
    except VideoError:
        return False
