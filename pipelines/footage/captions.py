"""Captions of a user's videos: a .txt beside each, or one file that names them all."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from pipelines.stage import StageError

FORMATS = (".csv", ".tsv", ".jsonl")
HEADERS = ("file", "filename", "file_name", "path", "video")
KEY = "raw_video.source.folder.captions"


def sidecar_captions(root: Path, videos: Iterable[str]) -> dict[str, str]:
    """The text of ``<video>.txt`` beside each video that has one, white space folded.

    Raises:
        StageError: a .txt is not UTF-8.
    """
    found = {}
    for video in videos:
        text = (root / video).with_suffix(".txt")
        if text.is_file():
            found[video] = " ".join(_read_text(text).split())
    return found


def captions_from_file(file: Path, videos: Iterable[str]) -> dict[str, str]:
    """Captions by video, from a .csv or .tsv (``filename, caption``) or .jsonl (``{"file": …, "caption": …}``) file.

    Args:
        file: the captions file.
        videos: the videos of the folder, as posix paths relative to it: the names that the file may use.

    Raises:
        StageError: the format is unknown, a line is malformed, or the file names a video that is not there.
    """
    if file.suffix.lower() not in FORMATS:
        raise StageError(f"{KEY}: {file}: unknown caption format {file.suffix!r}; known: {', '.join(FORMATS)}.")
    if not file.is_file():
        raise StageError(f"{KEY}: {file}: no such file; name one in the folder, or null for a .txt beside each video.")
    rows = _jsonl(file) if file.suffix.lower() == ".jsonl" else _table(file)
    known, found, missing = set(videos), {}, []
    for line, name, caption in rows:
        name = str(PurePosixPath(name))
        caption = " ".join(caption.split())
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
    tabs = file.suffix.lower() == ".tsv"
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
            name, caption = row["file"], row["caption"]
        except (ValueError, TypeError, KeyError):
            name = caption = None
        if not isinstance(name, str) or not isinstance(caption, str):
            raise StageError(f'{file}:{number}: is not {{"file": "…", "caption": "…"}}.')
        yield number, name, caption
