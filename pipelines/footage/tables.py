"""Tables of captions as people's programs save them, as rows of named values: csv, tsv, txt, json, jsonl, parquet.

Values of csv stay text ("007", "NA"); an empty cell is none. Files are read a row at a time where their form allows.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.limits import VideoError
from pipelines.footage.columns import CAPTIONS, file_column, names_a_column
from pipelines.stage import StageError
from pipelines.textfile import TextError, lines_in, lines_of, read_text

FORMATS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet")
LISTS = ("videos.txt", "video.txt", "images.txt", "image.txt", "files.txt")
"""Names of the file that lists the videos line by line, where the captions stand line by line in another."""
HEAD = 20
"""Lines that are looked at to tell what stands between the cells."""
SEPARATORS = ",;\t|"
PATH = re.compile(r"\.[a-zA-Z0-9]{2,4}$")
"""A cell that is the name of a file."""
LISTED = ("data", "videos", "items", "samples", "annotations", "rows", "clips")
"""Under these names a json object holds its list of rows."""


@dataclass(frozen=True)
class Row:
    """One row: where it stands (a line, or a row from 1), its values by column, or why it cannot be used."""

    place: int
    values: dict[str, Any] = field(default_factory=dict)
    refusal: VideoError | None = None


def read_rows(file: Path) -> Iterator[Row]:
    """The rows of a table; one that cannot be read is a row with a refusal.

    Raises:
        StageError: the whole file cannot be read.
    """
    readers = {".json": _json, ".jsonl": _jsonl, ".parquet": _parquet, ".txt": _txt}
    try:
        yield from readers.get(file.suffix.lower(), _table)(file)
    except TextError as error:
        raise StageError(f"{file}: {error}.") from None


def partner_of(file: Path) -> Path | None:
    """The list of videos beside a text file of captions, line by line; None where there is none."""
    if file.suffix.lower() != ".txt":
        return None
    return next((file.with_name(name) for name in LISTS if name != file.name and file.with_name(name).is_file()), None)


def _bad(place: int, detail: str) -> Row:
    return Row(place, refusal=VideoError("bad_row", detail))


# ---- tables of cells ----------------------------------------------------------------------------------------------


def _txt(file: Path) -> Iterator[Row]:
    """Captions line by line beside a list of videos, or two columns with a tab between."""
    videos = partner_of(file)
    if videos is None:
        return _table(file)
    return _side_by_side(file, videos)


def _side_by_side(file: Path, videos: Path) -> Iterator[Row]:
    """Line n of one file captions what line n of the other names; empty lines at the end count for nothing."""
    found = [lines_of(read_text(path).rstrip()) for path in (videos, file)]
    names, captions = ([line.strip() for line in lines] for lines in found)
    if len(names) != len(captions):
        raise StageError(
            f"{file}: {len(captions)} lines, but {videos.name} beside it has {len(names)}; line n of one captions "
            "what line n of the other names."
        )
    for place, (name, caption) in enumerate(zip(names, captions, strict=True), 1):
        yield Row(place, {"file": name, "caption": caption or None})


def _table(file: Path) -> Iterator[Row]:
    lines = lines_in(file)
    head = list(itertools.islice(lines, HEAD))
    said = re.fullmatch(r"\"?sep=(.)\"?\s*", head[0], re.IGNORECASE) if head else None
    skipped = 1 if said else 0
    usual = "\t" if file.suffix.lower() in (".tsv", ".txt") else ","
    separator = said[1] if said else _separator(head, usual)
    cells_of, columns = _Cells(itertools.chain(head[skipped:], lines), separator, skipped), None
    for place, cells in cells_of.rows(file):
        if isinstance(cells, str):
            yield _bad(place, cells)
        elif any(cell.strip() for cell in cells):
            header = None if columns else _columns(cells)
            columns = columns or header or ["file", "caption"]
            if header is None:
                yield _row(place, columns, cells, separator)


class _Cells:
    """Rows of cells with their lines; one with text behind a closed quote is told, and the next one is read."""

    def __init__(self, lines: Iterator[str], separator: str, before: int) -> None:
        self._lines, self._separator, self._line = lines, separator, before

    def rows(self, file: Path) -> Iterator[tuple[int, list[str] | str]]:
        """Place and cells, or what is wrong.

        Raises:
            StageError: a quote is left open, so that no later row can be told apart.
        """
        while True:
            before, reader = self._line, csv.reader(self._lines, delimiter=self._separator, strict=True)
            try:
                for cells in reader:
                    self._line = before + reader.line_num
                    yield self._line, cells
                return
            except csv.Error as error:
                self._line = before + reader.line_num
                if "expected after" not in str(error):
                    where = f"{file}:{self._line}"
                    raise StageError(f"{where}: {error}; is a quote left open before it?") from None
                yield self._line, f"{error}; double the quotes inside quotes, or close one before it"


def _separator(lines: Sequence[str], usual: str) -> str:
    """What stands between the cells: with it the first row names a column, or its first cell a file."""
    first = next((line for line in lines if line.strip()), "")
    for separator in (usual, *SEPARATORS.replace(usual, "")):
        cells = next(csv.reader([first.rstrip("\n")], delimiter=separator), [])
        if len(cells) > 1 and (_columns(cells) or PATH.search(cells[0].strip())):
            return separator
    return usual


def _columns(cells: Sequence[str]) -> list[str] | None:
    """The names of the columns, where the first row is a header; None where it is not."""
    names = [cell.strip() for cell in cells]
    if file_column(tuple(names)) is not None:
        return names
    captioned = any(names_a_column(name, CAPTIONS) for name in names)
    return names if captioned and not any(PATH.search(name) for name in names) else None


def _row(place: int, columns: Sequence[str], cells: list[str], separator: str) -> Row:
    while len(cells) > len(columns) and not cells[-1].strip():  # spreadsheets end rows with empty cells
        cells = cells[:-1]
    if len(cells) != len(columns):
        mark = {"\t": "tabs", ",": "commas", ";": "semicolons"}.get(separator, repr(separator))
        hint = (
            f'put a caption with {mark} in "quotes"' if len(cells) > len(columns) else f"{mark} stand between columns"
        )
        return _bad(place, f"{len(cells)} columns found, {', '.join(columns)} expected; {hint}")
    return Row(place, {name: cell if cell.strip() else None for name, cell in zip(columns, cells, strict=True) if name})


# ---- tables of objects --------------------------------------------------------------------------------------------


def _jsonl(file: Path) -> Iterator[Row]:
    for place, line in enumerate(lines_in(file), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        yield Row(place, values) if isinstance(values, dict) else _bad(place, 'is not {"file": "…", "caption": "…"}')


def _json(file: Path) -> Iterator[Row]:
    """A list of objects, alone or under one of :data:`LISTED`; or captions, or objects, by file name."""
    try:
        found = json.loads(read_text(file))
    except RecursionError:
        raise StageError(f"{file}: is nested too deep.") from None
    except json.JSONDecodeError as error:
        raise StageError(f"{file}:{error.lineno}: is no json ({error.msg}); one object a line is .jsonl.") from None
    if isinstance(found, dict):
        inside = next((found[name] for name in LISTED if isinstance(found.get(name), list)), None)
        found = [_named(name, value) for name, value in found.items()] if inside is None else inside
    if not isinstance(found, list):
        raise StageError(f'{file}: is no list of {{"file": "…", "caption": "…"}}.')
    for place, values in enumerate(found, 1):
        yield Row(place, values) if isinstance(values, dict) else _bad(place, "is no object")


def _named(name: str, value: Any) -> Any:
    """``{"a.mp4": "a cat"}`` and ``{"a.mp4": {"caption": "a cat"}}`` as a row."""
    return {**value, "file": name} if isinstance(value, dict) else {"file": name, "caption": value}


def _parquet(file: Path) -> Iterator[Row]:
    try:
        with pq.ParquetFile(file) as table:
            place = 0
            for batch in table.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    place += 1
                    yield Row(place, values)
    except (pa.ArrowException, OSError) as error:
        raise StageError(f"{file}: not readable as parquet ({str(error).splitlines()[0]}).") from None
