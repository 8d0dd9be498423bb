"""What the columns of a table of videos mean, by the names that people give them.

Sources of the names: Hugging Face's video folders (``file_name``), the trainers of LTX (``media_path``), musubi
(``video_path``), finetrainers (``video``), Open-Sora (``path``, ``text``); OpenVid (``video``), Panda-70M and Koala-36M
(``videoID``, ``timestamp``), InternVid (``YoutubeID``, ``Start_timestamp``).
"""

from __future__ import annotations

import ast
import datetime
import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from pipelines.data.limits import VideoError

FILES = (
    *("file_name", "filename", "file", "media_path", "media_file", "media", "video_path", "video_file", "video_name"),
    *("videopath", "file_path", "filepath", "path", "image_path", "clip_path", "clip_name", "video", "image", "vid"),
    *("relpath", "relative_path", "video_id", "videoid", "youtube_id", "youtubeid", "clip_id", "clipid", "key", "id"),
)
"""Names of the column that says which video, the surest first."""
CAPTIONS = (
    *("caption", "prompt", "text", "captions", "prompts", "description", "video_caption", "long_caption", "cap"),
    *("dense_caption", "refined_caption", "recaption", "detailed_caption", "short_caption", "sentence", "title"),
)
"""Names of the column that holds the caption, the surest first."""
SPANS = (
    *(("start", "end"), ("start_time", "end_time"), ("start_timestamp", "end_timestamp"), ("begin", "end")),
    *(("start_seconds", "end_seconds"), ("start_sec", "end_sec"), ("start_s", "end_s"), ("t_start", "t_end")),
)
"""Pairs of columns that hold where a cut begins and ends in its video."""
BOTH = ("timestamp", "timestamps", "time_span", "segment", "segments")
"""Columns that hold both times of a cut, or those of several."""
Span = tuple[float, float]


def plain(name: str) -> str:
    """A column's name as it is compared: in small letters, words joined by ``_``."""
    return re.sub(r"[\s\-.]+", "_", name.strip().lower())


def names_a_column(name: str, known: Sequence[str]) -> bool:
    """Whether a column's name is one of those."""
    return plain(name) in known


@lru_cache(maxsize=256)
def column_of(columns: tuple[str, ...], known: tuple[str, ...]) -> str | None:
    """The column with the surest of the known names; None where there is none."""
    by_name = {plain(name): name for name in reversed(columns)}
    return next((by_name[name] for name in known if name in by_name), None)


def seconds(value: Any) -> float:
    """A time in seconds: a number, ``12.5``, or ``0:01:02.250``.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise ValueError(f"{value!r} is no time")
    if isinstance(value, str):
        parts = value.strip().replace(",", ".").split(":")
        found = sum(float(part) * 60**power for power, part in enumerate(reversed(parts)))
    else:
        found = float(value)
    if not math.isfinite(found) or found < 0:
        raise ValueError(f"{value!r} is no time")
    return found


def _listed(value: Any) -> Any:
    """A list that a csv holds as text, as Python or json writes it; everything else as it is."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "("):
        for read in (json.loads, ast.literal_eval):
            try:
                return read(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return value


def cuts_of(values: Mapping[str, Any]) -> tuple[list[Span] | None, set[str], bool]:
    """The stretches of its video that a row is about (None: all of it), the columns that say so, and whether in a list.

    Raises:
        VideoError: ``bad_row``: there are such columns, and what they hold are no times.
    """
    columns = tuple(values)
    for pair in SPANS:
        names = [column_of(columns, (name,)) for name in pair]
        if None not in names and all(values[str(name)] is not None for name in names):
            return [_span([values[str(name)] for name in names])], {str(name) for name in names}, False
    name = column_of(columns, BOTH)
    if name is None or values[name] is None:
        return None, set(), False
    found = _listed(values[name])
    if not isinstance(found, (list, tuple)):
        return None, set(), False  # one time alone says when, not from where to where
    listed = bool(found) and isinstance(found[0], (list, tuple))
    return [_span(one) for one in (found if listed else [found])], {name}, listed


def _span(times: Any) -> Span:
    try:
        begin, end = (seconds(time) for time in times)
    except (TypeError, ValueError) as error:
        raise VideoError("bad_row", f"{times!r} are not the two times of a cut ({error})") from None
    if end <= begin:
        raise VideoError("bad_row", f"the cut from {begin:g} s to {end:g} s has no length")
    return begin, end


def texts_of(value: Any, count: int, listed: bool) -> list[Any]:
    """A caption per cut: of ``listed`` cuts a list of as many."""
    found = _listed(value) if listed or isinstance(value, (list, tuple)) else value
    if isinstance(found, (list, tuple)):
        if len(found) == count:
            return list(found)
        what = f"{count} cuts" if count > 1 else "one video"
        raise VideoError("bad_row", f"{len(found)} captions for {what}")
    return [value] * count


def metadata_of(
    values: Mapping[str, Any], used: set[str], number: int = 0, listed: int | None = None
) -> dict[str, Any]:
    """What else a row says, as JSON can hold it: of columns with a list of ``listed`` values that of cut ``number``.

    Left out: columns without a name, a table's running number, what is none, and bytes.
    """
    kept = {}
    for name, value in values.items():
        if name in used or plain(str(name)) in ("", "unnamed:_0", "__index_level_0__"):
            continue
        found = value if listed is None else _listed(value)
        if listed is not None and isinstance(found, (list, tuple)) and len(found) == listed:
            value = found[number]
        value = storable(value)
        if value is not None:
            kept[str(name).strip()] = value
    return kept


def storable(value: Any) -> Any:
    """A value as strict JSON holds it; None for what it cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        found = {str(name): storable(one) for name, one in value.items()}
        return {name: one for name, one in found.items() if one is not None} or None
    if isinstance(value, (list, tuple)):
        return [storable(one) for one in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else None
