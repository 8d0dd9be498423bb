"""``reel audit DIR --clip CLIP``: was a clip used? Asked by key, content hash, source, or a file that somebody has."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.chain import MOST_BYTES, NoChain, boxes, carried, content_hash
from pipelines.data import audit_clips
from pipelines.provenance import SHORT, printable

KEY = re.compile(rb"clip-[0-9a-f]{16}(?![0-9a-f])")
"""Of a clip, as the catalog's own files name it in their comment."""
NOT_SEEN = " (by key, content hash, source and file name; another encoding under another name is not known again)"


def uses(root: Path, folders: Sequence[Path], clip: str) -> tuple[list[str], list[str]]:
    """Where a clip is, by key, begin of its content hash, source or file, a line each; and what is unknown.

    Looked at are the tables in ``folders``, the artifacts in DIR, and those of the data sets that chains in DIR go back
    to, where the project around DIR has them as they were. A data set that is nowhere can hold the clip: it is named.
    """
    tables = {folder: _table(folder) for folder in folders}
    here = {content_hash(folder) for folder, table in tables.items() if table is not None}
    project = next((one for one in root.resolve().parents if (one / "dvc.yaml").is_file()), None)
    away: list[str] = []
    for digest, path in _data_sets(folders).items():
        if digest in here:
            continue
        if project is not None and (project / path).is_dir() and content_hash(project / path) == digest:
            tables[project / path] = _table(project / path)
        else:
            away.append(printable(f"{path} {digest[:SHORT]}, from which it was made, is not here; ask where it is"))
    rows = [(folder, row) for folder, table in tables.items() if table is not None for row in table.to_pylist()]
    found = [(folder, row, "") for folder, row in rows if _is_named(row, clip)]
    if not found:  # a path of the asker's own: what the file says it is, and then its name
        keys, name = _keys(Path(clip)), Path(clip).name
        found = [(folder, row, "") for folder, row in rows if row["key"] in keys]
        found += [
            (folder, row, " (by its file name alone)") for folder, row in rows if Path(row["source"]).name == name
        ]
    said = (f"{place}: {row['key']}, split {row['split']}, from {row['source']}{how}" for place, row, how in found)
    return list(map(printable, said)), away


def _is_named(row: dict[str, Any], clip: str) -> bool:
    by_hash = len(clip) >= 8 and row["content_hash"].startswith(clip)
    return by_hash or clip in (row["key"], row["source"], Path(row["source"]).name)


def _keys(clip: Path) -> set[str]:
    """Keys by which a file names itself: that of its name, and those in the head of an mp4 that a catalog stored."""
    found = {clip.stem}
    with contextlib.suppress(NoChain, OSError):
        for kind, at, size in boxes(clip) if clip.is_file() else ():
            if kind == b"moov" and size <= MOST_BYTES:
                with clip.open("rb") as stream:
                    stream.seek(at)
                    found |= {key.decode() for key in KEY.findall(stream.read(size))}
    return found


def _table(folder: Path) -> pa.Table | None:
    return audit_clips.columns_of(folder, ("key", "split", "content_hash", "source"))


def _data_sets(folders: Sequence[Path]) -> dict[str, str]:
    """Content hash and path of every folder of samples that the chains of artifacts know."""
    found: dict[str, str] = {}
    for folder in folders:
        with contextlib.suppress(NoChain):
            for digest, node in carried(folder)[0]["nodes"].items():
                if "samples" in (node.get("facts") or {}):
                    found[digest] = node["path"]
    return found


def answer(root: Path, folders: Sequence[Path], clip: str) -> int:
    """Print whether a clip was used; 1 if so, 0 if not, 3 where that cannot be told."""
    lines, away = uses(root, folders, clip)
    said = lines or [f"{clip}: unknown; {one}" for one in away] or [f"{clip}: in no data set of {root}{NOT_SEEN}"]
    print("\n".join(said))
    return 1 if lines else 3 if away else 0
