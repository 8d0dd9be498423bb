"""What is encoded already: shards of earlier versions of the output, and those that a killed run finished.

DVC deletes an output before its stage runs, but keeps what it recorded in its cache; that is where earlier shards are
read and linked from. A shard counts when its file is there with the recorded size. Imports no torch.
"""

from __future__ import annotations

import json
import mmap
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipelines import stage
from pipelines.data.contract import CHECKSUM, INDEX, MANIFEST, MEMBERS, PROMPT_TOKENS, Manifest, ShardFacts, TextFacts
from pipelines.data.tar import array, members
from pipelines.recording import earlier_versions

VERSIONS = 8
"""Most earlier versions of the output that are looked at, newest first."""
IDENTITY = ["key", "content_hash", "prompt_hash"]
PLACE = ["offset", "size", PROMPT_TOKENS]
"""Columns of the index that say where a sample is, beside the checksums."""


@dataclass(frozen=True)
class StockShard:
    """A shard that exists: its file, facts, recipes and fields, and the index rows of its samples, in its order.

    ``name``: what it is called in the last version; None: it is not in that.
    """

    path: Path
    name: str | None
    facts: ShardFacts
    recipes: Mapping[str, str]
    fields: frozenset[str]
    rows: pd.DataFrame


@dataclass(frozen=True)
class StockPlace:
    """Where a sample can be read: the shard's file, its place in it, its key there and the checksums of members."""

    path: Path
    offset: int
    size: int
    key: str
    checksums: Mapping[str, int]


@dataclass
class Stock:
    """All shards that exist, in the order in which they are preferred, and names that the last version used."""

    shards: list[StockShard] = field(default_factory=list)
    names: frozenset[str] = frozenset()
    text_files: dict[str, Path] = field(default_factory=dict)
    """Files of the last version's text encoder and empty prompt by their place in it."""
    text_facts: TextFacts | None = None
    text_recipe: str | None = None


# ---- finding ------------------------------------------------------------------------------------------------------


def find(out: Path, unfinished: Path) -> Stock:
    """The stock of an output: it itself where it stands, DVC's versions of it, and shards of a killed run."""
    standing = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    versions = [files for files in (standing, *earlier_versions(out, VERSIONS)) if MANIFEST in files and INDEX in files]
    stock = Stock()
    shards: dict[str, StockShard] = {}
    for files in versions:
        manifest = _manifest(files[MANIFEST])
        if manifest is None or not manifest.recipes:
            continue
        is_last = not stock.names
        if is_last:
            stock.names = frozenset(manifest.shards)
            _adopt_text(stock, manifest, files)
        for shard in _version(manifest, files, is_last):
            known = shards.setdefault(shard.facts.sha256, shard)
            if known is not shard and len(known.rows) < known.facts.num_samples:  # an older index knows removed samples
                rows = pd.concat([known.rows, shard.rows]).drop_duplicates("offset").sort_values("offset")
                shards[shard.facts.sha256] = replace(known, rows=rows.reset_index(drop=True))
    stock.shards = [*shards.values(), *_unfinished(unfinished)]
    return stock


def _manifest(path: Path) -> Manifest | None:
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def _adopt_text(stock: Stock, manifest: Manifest, files: Mapping[str, Path]) -> None:
    wanted = {name: files.get(name) for name in manifest.files if name != INDEX}
    if all(path is not None and path.is_file() for path in wanted.values()):
        stock.text_files = {name: path for name, path in wanted.items() if path is not None}
        stock.text_facts, stock.text_recipe = manifest.text_encoder, manifest.recipes.get("text")


def _version(manifest: Manifest, files: Mapping[str, Path], is_last: bool) -> Iterator[StockShard]:
    try:
        index = pq.read_table(files[INDEX]).to_pandas()
    except (OSError, pa.ArrowInvalid):
        return
    if not set(IDENTITY + PLACE) <= set(index):
        return
    columns = ["shard", *IDENTITY, *PLACE, *(name for name in index if str(name).startswith(CHECKSUM))]
    groups = dict(tuple(index[columns].groupby("shard", sort=False)))
    for name, facts in manifest.shards.items():
        path = files.get(name)
        if name in groups and path is not None and _is_whole(path, facts):
            rows = groups[name].drop(columns="shard").sort_values("offset", ignore_index=True)
            yield StockShard(path, name if is_last else None, facts, manifest.recipes, frozenset(manifest.fields), rows)


def _is_whole(path: Path, facts: ShardFacts) -> bool:
    return path.is_file() and path.stat().st_size == facts.size


# ---- shards of a run that is not finished -------------------------------------------------------------------------


def write_record(
    path: Path,
    facts: ShardFacts,
    recipes: Mapping[str, str],
    fields: Iterable[str],
    rows: list[dict[str, Any]],
) -> None:
    """Note beside the finished shard ``path`` what is in it; without the note it does not count."""
    content = {"facts": facts.model_dump(), "recipes": dict(recipes), "fields": sorted(fields), "rows": rows}
    stage.write_json(path.with_suffix(".json"), content)


def read_record(path: Path) -> StockShard | None:
    """The finished shard ``path`` of a run that is not finished; None: it is not whole."""
    try:
        note = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        facts, rows = ShardFacts.model_validate(note["facts"]), pd.DataFrame(note["rows"])
    except (OSError, ValueError, KeyError):
        return None
    if not _is_whole(path, facts) or stage.file_digest(path) != facts.sha256:
        return None
    return StockShard(path, None, facts, note["recipes"], frozenset(note["fields"]), rows)


def _unfinished(folder: Path) -> list[StockShard]:
    found = [read_record(path) for path in sorted(folder.glob("*.tar"))]
    return [one for one in found if one is not None]


# ---- reading ------------------------------------------------------------------------------------------------------


class StockReader:
    """Members of samples in stock; keeps the map of the last shard only, as copies come shard by shard."""

    def __init__(self) -> None:
        self._open: tuple[Path, mmap.mmap] | None = None

    def read(self, place: StockPlace, field: str) -> np.ndarray:
        """One array of a sample, checked.

        Raises:
            StageError: it is not what the index recorded.
        """
        if self._open is None or self._open[0] != place.path:
            with place.path.open("rb") as stream:
                self._open = place.path, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        content, wanted = self._open[1], f"{place.key}.{MEMBERS[field]}"
        try:
            for name, begin, length in members(content, place.offset, place.size):
                part = content[begin : begin + length]
                if name == wanted and zlib.crc32(part) == place.checksums[CHECKSUM + field]:
                    return array(memoryview(part))
        except ValueError:
            pass
        raise stage.StageError(
            f"{place.path}: sample {place.key} at offset {place.offset}: {wanted} is not what was written; "
            "delete this file and run latent_shards again: its samples are encoded anew."
        )
