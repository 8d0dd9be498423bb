"""The catalog of a folder of clips: one row per clip, and one row with a reason per file that was refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.contract import ACTIONS
from pipelines.stage import StageError

CATALOG, REJECTED, DECISIONS = "catalog.parquet", "rejected.parquet", "decisions.parquet"
TRAIN, VALIDATION, TEST = "train", "validation", "test"
COMPOSITION = "composition"
"""Rendered clips of combinations of factor values that no clip of another split shows; judged apart."""
SPLITS = (TRAIN, VALIDATION, TEST, COMPOSITION)
SEEN = (TRAIN, VALIDATION)
"""What is looked at while parameters are chosen; the other splits are for the last judgement alone."""
FACTOR_PREFIX = "factor_"
TAR_OFFSET = "tar_offset"
"""Column of clips that lie in tars: the byte at which the header of the clip's member begins in the tar ``file``."""

CLIPS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # content key, [a-z0-9_-]
        pa.field("file", pa.string(), nullable=False),  # mp4, or the tar that holds it, relative to the folder
        pa.field("caption", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("frame_rate", pa.float64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # the file it was cut from, or "rendered"
        pa.field("start_seconds", pa.float64(), nullable=False),
        pa.field("end_seconds", pa.float64(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("actions", pa.list_(pa.list_(pa.float32()))),  # [num_frames][columns of ACTIONS]; null: unknown
    ]
)
JUDGED = ("motion", "sharpness", "duplicate", "caption", "split")
"""What can be decided of a clip that was cut from a file."""
QUALITY = pa.schema(
    [
        pa.field("quality_motion", pa.float64()),  # mean change from frame to frame, levels of 255; null: one frame
        pa.field("quality_sharpness", pa.float64(), nullable=False),  # variance of the Laplacian
        pa.field("quality_hash", pa.string(), nullable=False),  # perceptual hash, 256 bits in hexadecimal
    ]
)
"""Columns of clips cut from files; rendered clips have none of them."""
METADATA = pa.schema([pa.field("metadata", pa.string())])
"""What the source tells of a clip's file besides the caption (score, licence, address): a JSON object; or null."""
PACKED = pa.schema([pa.field(TAR_OFFSET, pa.int64(), nullable=False)])
"""Absent where each clip is a file of its own; :mod:`pipelines.data.stored` reads both."""
JUDGEMENTS = pa.schema(
    [
        *[CLIPS.field(name) for name in ("key", "source", "start_seconds", "end_seconds", "num_frames")],
        *[CLIPS.field(name) for name in ("height", "width", "caption")],
        *QUALITY,
        *METADATA,
        *[pa.field(f"{name}_decision", pa.string(), nullable=False) for name in JUDGED],
        pa.field("duplicate_of", pa.string()),  # key of the clip that shows the same and was kept
        pa.field("kept", pa.bool_(), nullable=False),
    ]
)
"""One row per clip that was cut, kept or refused; a decision is "kept", "refused" or "off"."""
REFUSALS = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("file", "reason", "detail")])

_KEY = re.compile(r"[a-z0-9][a-z0-9_-]*")


def schema(factors: Iterable[str] = (), measured: bool = False, packed: bool = False) -> pa.Schema:
    """The columns of a catalog whose clips have the named factors, or measures of their quality, or lie in tars."""
    fields = [pa.field(FACTOR_PREFIX + name, pa.string(), nullable=False) for name in factors]
    return pa.schema([*CLIPS, *(PACKED if packed else ()), *((*QUALITY, *METADATA) if measured else ()), *fields])


def factor_names(catalog: pd.DataFrame) -> list[str]:
    """Names of the known factors of a catalog or an index, without their prefix; empty for real footage."""
    return [str(name).removeprefix(FACTOR_PREFIX) for name in catalog if str(name).startswith(FACTOR_PREFIX)]


def write_catalog(
    folder: Path, clips: Iterable[Mapping[str, Any]], rejected: Iterable[Mapping[str, str]] = ()
) -> pd.DataFrame:
    """Write both tables, rows in the given order.

    Args:
        folder: where the clips' ``file`` paths start.
        clips: a mapping per clip with every column of :data:`CLIPS`, and of :data:`QUALITY` or none of it, then with
            that of :data:`METADATA` where there is some, and of :data:`PACKED` where clips lie in tars; further keys
            must be ``factor_<name>``.
        rejected: a mapping per refused file with ``file``, ``reason`` (a code) and ``detail``.

    Returns:
        The catalog as :func:`read_catalog` reads it.

    Raises:
        StageError: a row breaks the schema, or a key or split is not allowed.
    """
    rows = list(clips)
    if rows and "quality_hash" in rows[0]:
        rows = [{"metadata": None, **row} for row in rows]
    known = {*CLIPS.names, *PACKED.names, *QUALITY.names, *METADATA.names}
    first = rows[0] if rows else {}
    factors = [name.removeprefix(FACTOR_PREFIX) for name in first if name not in known]
    columns = schema(factors, "quality_hash" in first, TAR_OFFSET in first)
    for row in rows:
        if set(row) != set(columns.names):
            odd = ", ".join(sorted(set(row) ^ set(columns.names)))
            raise StageError(f"{folder / CATALOG}: clip {row.get('key')}: missing or unknown columns: {odd}.")
    try:
        table = pa.Table.from_pylist(rows, schema=columns)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise StageError(f"{folder / CATALOG}: a value does not fit its column: {error}.") from None
    catalog = table.to_pandas()
    _check(catalog, folder)
    _check_actions(rows, folder)
    pq.write_table(table, folder / CATALOG)
    pq.write_table(pa.Table.from_pylist(list(rejected), schema=REFUSALS), folder / REJECTED)
    return catalog


def read_catalog(folder: Path) -> pd.DataFrame:
    """The clips of a folder, one row each, columns as in :data:`CLIPS` and ``factor_<name>``.

    Raises:
        StageError: there is no catalog, a column is missing or has another type, or a row is not allowed.
    """
    table = _read(folder, CATALOG)
    found = {field.name: field.type for field in table.schema}
    for field in CLIPS:
        if found.get(field.name) != field.type:
            raise StageError(
                f"{folder / CATALOG}: column {field.name} must be {field.type}, found {found.get(field.name)}; "
                "run the stage raw_video again."
            )
    catalog = table.to_pandas()
    _check(catalog, folder)
    return catalog


def read_rejected(folder: Path) -> pd.DataFrame:
    """The refused files of a folder: ``file``, ``reason``, ``detail``.

    Raises:
        StageError: there is no such table.
    """
    return _read(folder, REJECTED).to_pandas()


def write_decisions(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write :data:`DECISIONS`: a mapping per clip that was cut, kept or refused, with the columns of JUDGEMENTS."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=JUDGEMENTS), folder / DECISIONS)


def read_decisions(folder: Path) -> pd.DataFrame:
    """What was decided on every clip that was cut, columns as in :data:`JUDGEMENTS`.

    Raises:
        StageError: there is no such table (rendered clips are not judged).
    """
    return _read(folder, DECISIONS).to_pandas()


def _read(folder: Path, name: str) -> pa.Table:
    if not (folder / name).is_file():
        raise StageError(f"{folder / name}: no such file; the stage raw_video makes it.")
    try:
        return pq.read_table(folder / name)
    except pa.ArrowInvalid as error:
        raise StageError(f"{folder / name}: not readable as parquet ({error}); run raw_video again.") from None


def _check_actions(rows: Iterable[Mapping[str, Any]], folder: Path) -> None:
    width: int | None = None
    for row in rows:
        held, frames = row["actions"], row["num_frames"]
        if held is not None and width is None and len(held):
            width = len(held[0])
        if held is not None and (len(held) != frames or any(len(one) != width for one in held)):
            raise StageError(
                f"{folder / CATALOG}: clip {row['key']}: actions must be a row for each of the {frames} frames, of "
                f"{width} numbers like the clips before it (a keyboard's and mouse's are {', '.join(ACTIONS.names)})."
            )


def _check(catalog: pd.DataFrame, folder: Path) -> None:
    where = folder / CATALOG
    twice = [key for key, count in Counter(catalog["key"]).items() if count > 1]
    if twice:
        raise StageError(f"{where}: key {twice[0]} stands twice; a key names one clip.")
    for key, file, split in zip(catalog["key"], catalog["file"], catalog["split"], strict=True):
        if not _KEY.fullmatch(key):
            raise StageError(f"{where}: key {key!r} must be lower-case letters, digits, '-' and '_'.")
        if split not in SPLITS:
            raise StageError(f"{where}: clip {key}: split {split!r} is none of {', '.join(SPLITS)}.")
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise StageError(f"{where}: clip {key}: file {file!r} leaves the folder.")
        if file.endswith(".tar") != (TAR_OFFSET in catalog):
            raise StageError(f"{where}: clip {key}: {TAR_OFFSET} says where in a tar a clip begins; file is {file!r}.")
    wrong = [frames for frames in catalog["num_frames"].unique() if frames % 4 != 1]
    if wrong:
        raise StageError(f"{where}: a clip has {wrong[0]} frames; the number must be 1 mod 4.")
