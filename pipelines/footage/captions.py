"""Captions of a user's videos: a .txt or .json beside each, or a table that names them all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.data.limits import VideoError
from pipelines.footage.columns import (
    CAPTIONS,
    Span,
    column_of,
    cuts_of,
    file_column,
    metadata_of,
    plain,
    texts_of,
)
from pipelines.footage.places import Places
from pipelines.footage.tables import FORMATS, Row, partner_of, read_rows
from pipelines.stage import StageError
from pipelines.textfile import TextError, decoded, one_line

MAX_BYTES = 1 << 20
"""Most that one sidecar may hold."""
SIDECARS = (".txt", ".caption", ".json")
"""Endings of the file beside a video; the first with a caption in it is taken."""
KEY = "captions"


@dataclass(frozen=True)
class Told:
    """What is told of a video, or of a cut of it: the caption ("" for none), the rest, or why it cannot be used."""

    caption: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    span: Span | None = None
    refusal: VideoError | None = None


class NotHere(VideoError):
    """What a source only names: it is counted apart from what was refused, ``count`` times."""

    def __init__(self, reason: str, detail: str, count: int = 1) -> None:
        super().__init__(reason, detail)
        self.count = count


@dataclass
class Table:
    """What a captions file says: by video; of rows that cannot be used, by their places; of videos elsewhere.

    ``companions``: videos that rows of others name in further columns (masks, control videos), with that column.
    """

    file: Path
    told: dict[str, list[Told]] = field(default_factory=dict)
    companions: dict[str, str] = field(default_factory=dict)
    bad: dict[int, VideoError] = field(default_factory=dict)
    rows: int = 0
    elsewhere: int = 0
    first_elsewhere: str = ""

    def of(self, name: str) -> list[Told]:
        """What is told of a video: one for each cut, or one for all of it."""
        absent = Told(refusal=VideoError("no_caption", f"not in {self.file.name}"))
        return self.told.get(name, [absent])

    def not_here(self) -> NotHere | None:
        """The count of rows whose videos are not in the folder; None where all are."""
        if not self.elsewhere:
            return None
        text = f"{self.elsewhere} of {self.rows} captions are of videos that are not here{self.first_elsewhere}"
        return NotHere("not_here", text, self.elsewhere)


def with_prefix(prefix: str | None, caption: str) -> str:
    """ "prefix. caption", as in training with a fixed prompt prefix; either one alone where the other is missing."""
    parts = [prefix.rstrip(". ") if prefix else "", caption]
    return ". ".join(part for part in parts if part)


# ---- beside each file ---------------------------------------------------------------------------------------------


def sidecar_in(content: bytes, name: str) -> Told:
    """What a sidecar's bytes say: text, or a json object with a caption under one of the known names and the rest.

    Raises:
        VideoError: it is too large, no text, no json, or its caption is no text.
    """
    if len(content) > MAX_BYTES:
        raise VideoError("bad_caption", f"{name}: more than {MAX_BYTES} bytes")
    try:
        text = decoded(content)
    except TextError as error:
        raise VideoError("bad_caption", f"{name}: {error}") from None
    if not name.lower().endswith("json"):
        return Told(one_line(text))
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise VideoError("bad_caption", f"{name}: is no json") from None
    if not isinstance(values, dict):
        raise VideoError("bad_caption", f"{name}: is no json object")
    column = column_of(tuple(values), CAPTIONS)
    caption = values.get(column) if column else None
    if not isinstance(caption, str | None):
        raise VideoError("bad_caption", f"{name}: {column} is {type(caption).__name__}, not text")
    lacking = None if column else VideoError("bad_caption", f"{name}: has no text under any of {', '.join(CAPTIONS)}")
    return Told(one_line(caption or ""), metadata_of(values, {column} if column else set()), refusal=lacking)


def together(sidecars: Mapping[str, bytes]) -> Told:
    """What several sidecars of one video say, by their names: the first caption that is not empty, and all the rest.

    Raises:
        VideoError: as :func:`sidecar_in`, where no other of them has a caption.
    """
    caption, metadata = "", {}
    problem: VideoError | None = None
    lacking: VideoError | None = None
    for name, content in sidecars.items():
        try:
            told = sidecar_in(content, name)
        except VideoError as error:
            problem = problem or error
            continue
        caption, metadata = caption or told.caption, {**told.metadata, **metadata}
        lacking = lacking or told.refusal
    if problem is not None and not caption:
        raise problem
    return Told(caption, metadata, refusal=None if caption else lacking)


def sidecars_of(path: Path) -> list[Path]:
    """The files beside a file or folder that may caption it: ``a.txt``, ``a.TXT``, ``a.mp4.txt``; the surest first."""
    stems = [path.name] if path.is_dir() else [path.stem, path.name]
    endings = [ending for suffix in SIDECARS for ending in (suffix, suffix.upper())]
    found = [path.with_name(stem + ending) for stem in stems for ending in endings]
    return [one for one in found if one.is_file()]


def sidecar_told(path: Path) -> Told:
    """What the files beside a file or folder say; no caption where there are none.

    Raises:
        VideoError: as :func:`together`.
    """
    contents = {}
    for sidecar in sidecars_of(path):
        with sidecar.open("rb") as stream:
            contents[sidecar.name] = stream.read(MAX_BYTES + 1)
    return together(contents)


# ---- one table for all --------------------------------------------------------------------------------------------


def captions_from_files(files: Sequence[Path], root: Path, videos: Sequence[str], key: str = KEY) -> list[Table]:
    """What captions files say of the videos of a folder.

    Args:
        files: .csv, .tsv, .txt, .json, .jsonl or .parquet files.
        root: the folder.
        videos: its videos, as posix paths relative to it.
        key: the parameter that names the files, for messages.

    Raises:
        StageError: a format is unknown, a file cannot be read, or they name none of the videos.
    """
    tables = [_read(file, Places(root, videos, file), key) for file in files]
    if not any(table.told for table in tables):
        raise StageError(_nothing(tables[0], Places(root, videos, files[0])))
    return tables


def _read(file: Path, places: Places, key: str) -> Table:
    if file.suffix.lower() not in FORMATS:
        sheet = file.suffix.lower() in (".xlsx", ".xls", ".ods", ".numbers")
        hint = "; save the sheet as `CSV UTF-8`" if sheet else ""
        raise StageError(f"{key}: {file}: unknown caption format {file.suffix!r}; known: {', '.join(FORMATS)}{hint}.")
    if not file.is_file():
        raise StageError(f"{key}: {file}: no such file; name one in the folder, or null for a .txt beside each video.")
    table = _matched(file, places)
    if not table.told:
        places.leave_out(_names(file))
        table = _matched(file, places)
    return table


def _names(file: Path) -> Iterator[str]:
    for row in read_rows(file):
        name = _name(row)
        if name is not None:
            yield name


def _name(row: Row) -> str | None:
    column = file_column(tuple(row.values))
    value = row.values[column] if column else None
    if isinstance(value, dict):  # the video column of a Hugging Face data set: {"path": …, "bytes": …}
        value = value.get("path")
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else None


def _matched(file: Path, places: Places) -> Table:
    """The rows by their videos; a name that says the whole path counts before one that only ends alike."""
    table = Table(file)
    where: dict[tuple[str, Span | None], int] = {}
    sure: set[str] = set()
    for row in read_rows(file):
        table.rows += 1
        name = _name(row)
        if row.refusal is not None or name is None:
            table.bad[row.place] = row.refusal or _nameless(row)
            continue
        video, exact = places.find(name)
        if video is None or (video in sure and not exact):
            table.elsewhere += 1
            first = table.first_elsewhere or f" (the first: {one_line(name)[:200]}, {file.name}:{row.place})"
            table.first_elsewhere = first
            continue
        if exact and video in table.told and video not in sure:
            table.elsewhere += 1
            del table.told[video]
        if exact:
            sure.add(video)
        for told in _told(row, file.name):
            _add(table, video, told, (row.place, where))
        table.companions |= places.companions(row.values, name)
    return table


def _add(table: Table, video: str, told: Told, places: tuple[int, dict[tuple[str, Span | None], int]]) -> None:
    """Add what a row says, unless another says otherwise of the same frames."""
    place, where = places
    known = table.told.setdefault(video, [])
    earlier = next((number for number, one in enumerate(known) if one.span == told.span), None)
    if earlier is None:
        where[video, told.span] = place
        known.append(told)
    elif known[earlier].caption != told.caption:
        text = f"{table.file.name}:{where[video, told.span]} and {place} give it two captions; keep one"
        known[earlier] = replace(known[earlier], refusal=VideoError("two_captions", text))


def _nameless(row: Row) -> VideoError:
    column = file_column(tuple(row.values))
    if column is not None:
        return VideoError("bad_row", f"{column} is {type(row.values[column]).__name__}, not the name of a video")
    columns = ", ".join(map(str, row.values)) or "none"
    return VideoError("bad_row", f"no column says which video (columns: {columns}); call one file_name")


def _told(row: Row, file: str) -> list[Told]:
    """What a row says of its video: one for each of its cuts."""
    values, where = row.values, f"{file}:{row.place}"
    columns = tuple(values)
    name, caption = file_column(columns), column_of(columns, CAPTIONS)
    try:
        spans, timed, listed = cuts_of(values)
        texts = texts_of(values[caption] if caption else None, len(spans or [None]), listed)
    except VideoError as error:
        return [Told(refusal=VideoError(error.reason, f"{where}: {error}"))]
    used = {str(one) for one in (name, caption) if one is not None} | timed
    told = []
    for number, (span, text) in enumerate(zip(spans or [None], texts, strict=True)):
        refusal = _refusal(text, caption, where, columns)
        metadata = metadata_of(values, used, number, len(texts) if listed else None)
        told.append(Told("" if refusal else one_line(text), metadata, span, refusal))
    return told


def _refusal(text: Any, caption: str | None, where: str, columns: tuple[str, ...]) -> VideoError | None:
    if caption is None:
        return VideoError("no_caption", f"{where}: no column is a caption (columns: {', '.join(map(plain, columns))})")
    if text is None:
        return VideoError("no_caption", f"{where}: {caption} is null")
    if not isinstance(text, str):
        return VideoError("bad_caption", f"{where}: {caption} is {type(text).__name__}, not text")
    return None


def _nothing(table: Table, places: Places) -> str:
    file = table.file
    if len(table.bad) == table.rows and table.bad:
        place, error = next(iter(table.bad.items()))
        return f"{file}:{place}: {error}."
    if not table.rows:
        return f"{file}: has no row; each names a video and its caption."
    first = one_line(next(_names(file)))[:200]
    partner = partner_of(file)
    lists = f" (names in {partner.name})" if partner else ""
    rows = f"none of its {table.rows} rows{lists} is" if table.rows > 1 else f"its one row{lists} is not"
    return f"{file}: {rows} of a video that is in {places.root} ({first}); {places.hint(first)}"
