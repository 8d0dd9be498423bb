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

NAMES = (
    *("file_name", "filename", "file", "media_path", "media_file", "media", "video_path", "video_file", "video_name"),
    *("videopath", "file_path", "filepath", "path", "image_path", "clip_path", "clip_name", "video", "image", "vid"),
    *("relpath", "relative_path", "video_file_name"),
)
IDS = ("video_id", "videoid", "youtube_id", "youtubeid", "clip_id", "clipid", "key", "id")
"""Names of the column that says which video, the surest first: by its file's name, by an id. Between the two stands any
``…_file_name``, as Hugging Face's folders name their columns of files."""
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
DURATIONS = ("duration", "duration_seconds", "duration_sec", "duration_s")
"""Columns that hold how long a cut is, where one says where it begins and none where it ends."""
FRAMES = (("start_frame", "end_frame"), ("frame_start", "frame_end"), ("begin_frame", "end_frame"))
RATES = ("fps", "frame_rate", "framerate", "video_fps")
"""Pairs of columns that hold a cut as numbers of frames, and the column that makes them seconds."""
BETWEEN = re.compile(r"\s*([\d:.]*\d)\s*(?:-->|->|–|—|-|~|to|,|;|\s)\s*(\d[\d:.]*)\s*")
"""Two times in one text, as people and subtitles write them."""
INNERMOST = re.compile(r"[\[(]([^\[\]()]*)[\])]")
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
def file_column(columns: tuple[str, ...]) -> str | None:
    """The column that says which video; None where there is none."""
    others = tuple(name for name in map(plain, columns) if name.endswith("_file_name"))
    return column_of(columns, (*NAMES, *others, *IDS))


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
    pairs = (*SPANS, *((begin, length) for begin, _ in SPANS for length in DURATIONS), *FRAMES)
    for pair in pairs:
        names = [column_of(columns, (name,)) for name in pair]
        if None not in names and all(values[str(name)] is not None for name in names):
            times, used = [values[str(name)] for name in names], {str(name) for name in names}
            if pair in FRAMES:
                times = _of_frames(times, values)
            elif pair not in SPANS:
                times = _with_length(times)
            return [_span(times)], used, False
    name = column_of(columns, BOTH)
    if name is None or values[name] is None:
        return None, set(), False
    found = _times(values[name])
    if not isinstance(found, (list, tuple)):
        return None, set(), False  # one time alone says when, not from where to where
    listed = bool(found) and isinstance(found[0], (list, tuple))
    return [_span(one) for one in (found if listed else [found])], {name}, listed


def _times(value: Any) -> Any:
    """Times in a list, or in a text as one: ``[0:00:01, 0:00:04]`` without quotes, ``0:01 - 0:04``; else as it is."""
    found = _listed(value)
    if not isinstance(found, str):
        return found
    groups = [[part.strip(" '\"") for part in group.split(",")] for group in INNERMOST.findall(found)]
    if groups:
        return groups if re.match(r"\s*[\[(]\s*[\[(]", found) else groups[0]
    pair = BETWEEN.fullmatch(found)
    return list(pair.groups()) if pair else found


def _with_length(times: list[Any]) -> list[Any]:
    """Begin and end, of a begin and a length."""
    try:
        begin, length = map(seconds, times)
    except ValueError as error:
        raise VideoError("bad_row", f"{times!r} are no begin and length of a cut ({error})") from None
    return [begin, begin + length]


def _of_frames(frames: list[Any], values: Mapping[str, Any]) -> list[Any]:
    """Begin and end in seconds, of numbers of frames and the rate that stands in the same row."""
    column = column_of(tuple(values), RATES)
    try:
        if column is None:
            raise ValueError("no column fps says how long a frame is")
        rate = seconds(values[column])
        return [seconds(frame) / rate for frame in frames]
    except (ValueError, ZeroDivisionError) as error:
        text = f"the cut is told in frames ({frames[0]} to {frames[1]}): {error}; state its seconds as start and end"
        raise VideoError("bad_row", text) from None


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
