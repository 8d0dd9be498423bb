"""What tables say of clips: whether they are there, held out and not trained on, from where, of which licence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data import audit_near
from pipelines.data.audited import Item
from pipelines.data.contract import INDEX

CATALOG = "catalog.parquet"
MOST_NAMED = 12
"""Clips and licences that are named one by one."""


def audit(folder: Path, shown: str, quick: bool, is_known: bool) -> Iterator[Item]:
    """Everything that tables tell of the clips in a folder; ``is_known``: DVC's hashes of their files are at hand."""
    yield from _clips(folder, shown, is_known)
    yield from _splits(folder, shown)
    yield from _near(folder, shown, quick)
    yield from _sources(folder, shown)


def columns_of(folder: Path, columns: Sequence[str]) -> pa.Table | None:
    """Columns of a catalog or index; None where there is none, or it has not all of them."""
    place = next((folder / name for name in (CATALOG, INDEX) if (folder / name).is_file()), None)
    if place is None:
        return None
    try:
        return pq.read_table(place, columns=list(columns))
    except (OSError, pa.ArrowInvalid, KeyError):
        return None


def _clips(folder: Path, shown: str, is_known: bool) -> Iterator[Item]:
    """The catalog records what a clip shows, not the bytes of its file; those DVC has, where it is at hand."""
    table = columns_of(folder, ("file",)) if (folder / CATALOG).is_file() else None
    files = table["file"].to_pylist() if table is not None else []
    there = _names(folder, files)
    gone = [name for name in files if name not in there]
    yield from (Item(f"{shown}/{name}", "missing", f"{CATALOG} names it") for name in dict.fromkeys(gone))
    if len(files) > len(gone) and not is_known:
        yield Item(
            f"{shown}: clips", "unknown", f"{len(files) - len(gone)} are there; {CATALOG} has no hash of their files"
        )


def _names(folder: Path, files: Sequence[str]) -> set[str]:
    """Which of some files are there: a folder is listed once, however many are asked for."""
    found: set[str] = set()
    for inside in {name.rpartition("/")[0] for name in files}:
        if (folder / inside).is_dir():
            found |= {f"{inside}/{path.name}".lstrip("/") for path in (folder / inside).iterdir()}
    return found


def _near(folder: Path, shown: str, quick: bool) -> Iterator[Item]:
    """No held-out clip may be nearly a training clip."""
    if not (folder / audit_near.EMBEDDINGS).is_file():
        return
    if quick:
        yield Item(f"{shown}: near-duplicates", "unknown", "were not sought (--quick)")
        return
    try:
        count, near = audit_near.near_duplicates(folder)
    except ValueError as error:
        yield Item(f"{shown}: near-duplicates", "unknown", str(error))
        return
    for one in near[:MOST_NAMED]:
        said = f"held out, and nearly {one.twin} of train ({one.relative:.2f} of the usual distance)"
        yield Item(f"{shown}: {one.key}", "does not match", said)
    said = f"{len(near)} of {count} held-out clips within {audit_near.NEAR:g} of the usual distance to a training clip"
    yield Item(f"{shown}: near-duplicates", "does not match" if near else "verified", said)


def _sources(folder: Path, shown: str) -> Iterator[Item]:
    """Where clips are from, and under which licence, as their source told it."""
    if not (folder / CATALOG).is_file():
        return
    table = columns_of(folder, ("source",))
    if table is None:
        return
    told = columns_of(folder, ("metadata",))
    count = len(table["source"].unique())
    licences = Counter(map(_licence, told["metadata"].to_pylist())) if told is not None else Counter({None: len(table)})
    unknown = licences.pop(None, 0)
    named = ", ".join(f"{name} ({number})" for name, number in licences.most_common(MOST_NAMED))
    if named:
        yield Item(f"{shown}: licences", "recorded", f"of {count} sources: {named}")
    if unknown:
        yield Item(f"{shown}: licences", "unknown", f"{unknown} clips of {count} sources say none")


def _licence(metadata: str | None) -> str | None:
    """What a clip's metadata says of its licence."""
    if not metadata or "licen" not in metadata.lower():
        return None
    try:
        content = json.loads(metadata)
    except ValueError:
        return None
    pairs = content.items() if isinstance(content, dict) else ()
    return next((str(value) for name, value in pairs if "licen" in str(name).lower() and value), None)


def _splits(folder: Path, shown: str) -> Iterator[Item]:
    """No content may be in the train split and in another."""
    table = columns_of(folder, ("key", "split", "content_hash"))
    if table is None:
        if any((folder / name).is_file() for name in (CATALOG, INDEX)):
            yield Item(f"{shown}: splits", "unknown", "its table cannot be read, or names no content and no splits")
        return
    rows = list(zip(*(table[name].to_pylist() for name in ("key", "split", "content_hash")), strict=True))
    trained = {content for _, split, content in rows if split == "train"}
    both = sorted(key for key, split, content in rows if split != "train" and content in trained)
    held_out = sum(split != "train" for _, split, _ in rows)
    said = f"{', '.join(both[:3])}{' …' if len(both) > 3 else ''} held out and in train" if both else "none in train"
    yield Item(f"{shown}: splits", "does not match" if both else "verified", f"{held_out} clips held out, {said}")
