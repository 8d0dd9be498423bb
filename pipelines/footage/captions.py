"""Captions of a user's videos: a .txt or .json beside each, or one file that names them all."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.limits import VideoError
from pipelines.stage import StageError

FORMATS = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
HEADERS = ("file", "filename", "file_name", "path", "video")
WORDS = ("caption", "prompt", "text")
"""Names of the field that holds the caption, in json and parquet."""
MAX_BYTES = 1 << 20
"""Most that one sidecar may hold."""
KEY = "captions"


def folded(text: str) -> str:
    """A caption in one line."""
    return " ".join(text.split())


def with_prefix(prefix: str | None, caption: str) -> str:
    """ "prefix. caption", as in training with a fixed prompt prefix; either one alone where the other is missing."""
    parts = [prefix.rstrip(". ") if prefix else "", caption]
    return ". ".join(part for part in parts if part)


def caption_in(content: bytes, name: str) -> str:
    """The caption that a sidecar's bytes hold: text, or json with one of the fields of :data:`WORDS`.

    Raises:
        VideoError: it is too large, no UTF-8, no json, or has no such field.
    """
    if len(content) > MAX_BYTES:
        raise VideoError("bad_caption", f"{name}: more than {MAX_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise VideoError("bad_caption", f"{name}: is not UTF-8 text (byte {error.start})") from None
    if not name.lower().endswith(".json"):
        return folded(text)
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise VideoError("bad_caption", f"{name}: is no json") from None
    found = next((fields[word] for word in WORDS if word in fields), None) if isinstance(fields, dict) else None
    if not isinstance(found, str):
        raise VideoError("bad_caption", f"{name}: has no text under any of {', '.join(WORDS)}")
    return folded(found)


def sidecar_caption(path: Path) -> str:
    """The caption beside a file or folder, ``<name>.txt`` or ``<name>.json``; "" where there is neither.

    Raises:
        VideoError: as :func:`caption_in`.
    """
    for suffix in (".txt", ".json"):
        sidecar = path.parent / (path.name + suffix) if path.is_dir() else path.with_suffix(suffix)
        if sidecar.is_file():
            with sidecar.open("rb") as stream:
                return caption_in(stream.read(MAX_BYTES + 1), sidecar.name)
    return ""


def captions_from_file(file: Path, videos: Iterable[str], key: str = KEY) -> dict[str, str]:
    """Captions by video: .csv (``filename, caption``), .tsv or .txt (a tab between), .jsonl or .parquet (fields).

    Args:
        file: the captions file.
        key: the parameter that names it, for messages.
        videos: the videos of the folder, as posix paths relative to it: the names that the file may use.

    Raises:
        StageError: the format is unknown, a line is malformed, or the file names a video that is not there.
    """
    if file.suffix.lower() not in FORMATS:
        raise StageError(f"{key}: {file}: unknown caption format {file.suffix!r}; known: {', '.join(FORMATS)}.")
    if not file.is_file():
        raise StageError(f"{key}: {file}: no such file; name one in the folder, or null for a .txt beside each video.")
    readers = {".jsonl": _jsonl, ".parquet": _parquet}
    rows = readers.get(file.suffix.lower(), _table)(file)
    known, found, missing = set(videos), {}, []
    for line, name, caption in rows:
        name = str(PurePosixPath(name))
        caption = folded(caption)
        if name not in known:
            missing.append((line, name))
        elif found.setdefault(name, caption) != caption:
            raise StageError(f"{file}:{line}: {name} has two captions; keep one.")
    if missing:
        raise StageError(_missing(file, missing, sorted(known)))
    return found


def _missing(file: Path, missing: list[tuple[int, str]], known: list[str]) -> str:
    line, name = missing[0]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    hint = f"did you mean {close[0]}?" if close else "names are relative to the video folder."
    return f"{file}:{line}: names {name}{more}, which the video folder does not hold; {hint}"


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise StageError(f"{file}: is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None


def _table(file: Path) -> Iterator[tuple[int, str, str]]:
    tabs = file.suffix.lower() in (".tsv", ".txt")
    reader = csv.reader(_read_text(file).splitlines(), delimiter="\t" if tabs else ",", strict=True)
    try:
        for number, row in enumerate(reader):
            if not any(cell.strip() for cell in row):
                continue
            if number == 0 and row[0].strip().lower() in HEADERS:
                continue
            if len(row) != 2:
                hint = "one tab between them." if tabs else 'put a caption with commas in "quotes".'
                raise StageError(
                    f"{file}:{reader.line_num}: filename and caption expected, {len(row)} columns found; {hint}"
                )
            yield reader.line_num, row[0].strip(), row[1]
    except csv.Error as error:
        raise StageError(f"{file}:{reader.line_num}: {error}.") from None


def _jsonl(file: Path) -> Iterator[tuple[int, str, str]]:
    for number, text in enumerate(_read_text(file).splitlines(), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        fields = row if isinstance(row, dict) else {}
        name, caption = (next((fields[word] for word in words if word in fields), None) for words in (HEADERS, WORDS))
        if not isinstance(name, str) or not isinstance(caption, str):
            raise StageError(f'{file}:{number}: is not {{"file": "…", "caption": "…"}}.')
        yield number, name, caption


def _parquet(file: Path) -> Iterator[tuple[int, str, str]]:
    try:
        table = pq.read_table(file)
    except pa.ArrowInvalid as error:
        raise StageError(f"{file}: not readable as parquet ({error}).") from None
    columns = [next((word for word in words if word in table.column_names), "") for words in (HEADERS, WORDS)]
    if not all(columns):
        raise StageError(f"{file}: has columns {', '.join(table.column_names)}; name them file and caption.")
    names, captions = (table.column(name).to_pylist() for name in columns)
    for number, (name, caption) in enumerate(zip(names, captions, strict=True), 1):
        if not isinstance(name, str) or not isinstance(caption, str | None):
            raise StageError(f"{file}:{number}: {columns[0]} and {columns[1]} must be text.")
        yield number, name, caption or ""
