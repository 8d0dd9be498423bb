"""Reading shards: any sample at any time through the index, only the fields that are asked for.

The files are ordinary WebDataset tars, but they are read through memory maps by the byte offsets of ``index.parquet``:
random access and no silent loss of a damaged sample. Shards that are not on this disk are read from where the
environment says (:mod:`pipelines.data.remote`).
"""

from __future__ import annotations

import mmap
import threading
import zlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.contract import (
    CHECKSUM,
    INDEX,
    MANIFEST,
    MEMBERS,
    ContractError,
    Manifest,
    read_empty_prompt,
)
from pipelines.data.remote import URL, Piece, configured
from pipelines.data.tar import array, members

OPEN_SHARDS = 64
"""Most memory maps kept at once."""


class Shards:
    """A folder of latents, read by row of its index; with ``splits``, as if it held nothing else.

    Raises:
        ContractError: manifest or index is missing or of another version, or they contradict each other.
    """

    def __init__(self, folder: Path, splits: Sequence[str] | None = None) -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder)
        path = folder / INDEX
        if not path.is_file():
            raise ContractError(f"{path}: no such file; `dvc checkout` restores it, or run latent_shards again.")
        try:
            self.index: pd.DataFrame = pq.read_table(path).to_pandas()
        except pa.ArrowInvalid as error:
            raise ContractError(f"{path}: not readable as parquet ({error}); `dvc checkout` restores it.") from None
        if len(self.index) != self.manifest.num_samples:
            raise ContractError(
                f"{path}: {len(self.index)} rows, but {MANIFEST} counts {self.manifest.num_samples} samples."
            )
        self._check_places(path)
        if splits is not None:
            chosen = np.flatnonzero(self.index["split"].isin(splits))
            self.index = self.index.iloc[chosen].reset_index(drop=True)
        self.splits = tuple(name for name in self.manifest.splits if splits is None or name in splits)
        self._maps: dict[str, mmap.mmap] = {}
        self._lock = threading.Lock()
        absent = {name for name in self.manifest.shards if not (folder / name).is_file()}
        self.remote = configured(self.manifest.shards) if absent else None
        self._absent = absent if self.remote else set()
        self._keys = self.index["key"].tolist()
        self._shards = self.index["shard"].tolist()
        self._places = list(zip(self.index["offset"].tolist(), self.index["size"].tolist(), strict=True))

    def _check_places(self, path: Path) -> None:
        """That every sample lies inside a shard of the manifest: these names and numbers become paths and reads."""
        known = {name: facts.size for name, facts in self.manifest.shards.items()}
        sizes = np.array([known.get(name, 0) for name in self.index["shard"]])
        offset, size = self.index["offset"], self.index["size"]
        odd = np.flatnonzero(~((offset >= 0) & (size > 0) & (offset + size <= sizes)))
        if len(odd):
            row = self.index.iloc[odd[0]]
            raise ContractError(
                f"{path}: sample {row['key']}: bytes {row['offset']} to {row['offset'] + row['size']} of "
                f"{row['shard']!r} are in no shard of {MANIFEST}; `dvc checkout` restores both."
            )

    def __len__(self) -> int:
        return len(self.index)

    def keys(self, rows: Iterable[int]) -> list[str]:
        """Keys of some rows."""
        return [self._keys[row] for row in rows]

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split ("train", "validation", "test", "composition"), in the order of the index.

        Raises:
            ContractError: there is no such split.
        """
        if split not in self.splits:
            raise ContractError(f"{self.folder}: no split {split}; there are {', '.join(self.splits)}.")
        return np.flatnonzero(self.index["split"].to_numpy() == split)

    @cached_property
    def empty_prompt(self) -> np.ndarray:
        """Embedding of the empty prompt, float32 [L, D]."""
        return read_empty_prompt(self.folder)

    # ---- samples ----

    def _map(self, name: str) -> mmap.mmap:
        known = self._maps.get(name)
        if known is not None:
            return known
        path, facts = self.folder / name, self.manifest.shards[name]
        if not path.is_file():
            raise ContractError(
                f"{path}: named in {MANIFEST} but missing; `dvc checkout` restores it, or {URL} says where it lies."
            )
        if path.stat().st_size != facts.size:
            raise ContractError(
                f"{path}: {path.stat().st_size} bytes, {MANIFEST} states {facts.size}; `dvc checkout` restores it."
            )
        with path.open("rb") as stream:
            opened = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        with self._lock:  # several threads read
            while len(self._maps) >= OPEN_SHARDS:  # arrays that still look into a dropped map keep it alive
                self._maps.pop(next(iter(self._maps)), None)
            self._maps[name] = opened
        return opened

    def read(self, row: int, fields: Iterable[str]) -> dict[str, Any]:
        """One sample: arrays (read-only views into the shard) and strings of the wanted fields; no other is decoded.

        Raises:
            ContractError: the sample's part of the shard is damaged or cannot be had, or it has no such field.
        """
        return self.read_many((row,), fields)[0]

    def read_many(self, rows: Sequence[int], fields: Iterable[str]) -> list[dict[str, Any]]:
        """As :meth:`read`, in the order of ``rows``; what lies elsewhere is fetched at once.

        Raises:
            ContractError: as :meth:`read`.
        """
        fields = tuple(fields)
        fetched = self._fetched(rows) if self._absent else {}
        return [self._sample(row, fields, fetched.get(row)) for row in rows]

    def _fetched(self, rows: Sequence[int]) -> dict[int, bytes | bytearray]:
        assert self.remote is not None
        far = [Piece(row, self._shards[row], *self._places[row]) for row in rows if self._shards[row] in self._absent]
        return {piece.row: one for piece, one in zip(far, self.remote.read(far, self._damage), strict=True)}

    def _damage(self, row: int, content: bytes | bytearray) -> str | None:
        """What is wrong with the bytes of a sample; None when they are whole and every checksum holds."""
        key, size = self._keys[row], self._places[row][1]
        if len(content) != size:
            return f"{len(content)} of {size} bytes"
        try:
            for member, begin, length in members(content, 0, size):
                if zlib.crc32(memoryview(content)[begin : begin + length]) != self._checksum(row, key, member):
                    return f"{member} differs from its checksum"
        except (ValueError, KeyError) as error:
            return str(error)
        return None

    def _checksum(self, row: int, key: str, member: str) -> int:
        """CRC-32 that the index records of a member.

        Raises:
            KeyError: it records none.
        """
        return self._checksums[member.removeprefix(f"{key}.").partition(".")[0]][row]

    @cached_property
    def _checksums(self) -> dict[str, np.ndarray]:
        columns = [str(name) for name in self.index.columns if str(name).startswith(CHECKSUM)]
        return {name.removeprefix(CHECKSUM): self.index[name].to_numpy() for name in columns}

    def _sample(self, row: int, fields: tuple[str, ...], fetched: bytes | bytearray | None) -> dict[str, Any]:
        shard, (offset, size), key = self._shards[row], self._places[row], self._keys[row]
        content, place = (self._map(shard), offset) if fetched is None else (fetched, 0)
        wanted = {f"{key}.{MEMBERS[field]}": field for field in fields}
        found: dict[str, Any] = {}
        try:
            for name, begin, length in members(content, place, size):
                if name in wanted:
                    view = memoryview(content).toreadonly()[begin : begin + length]
                    found[wanted[name]] = bytes(view).decode() if name.endswith(".txt") else array(view)
                    if len(found) == len(wanted):
                        break
        except (ValueError, UnicodeDecodeError) as error:
            raise ContractError(f"{self.folder / shard}: sample {key}: {error}; `dvc checkout` restores it.") from None
        for name, field in wanted.items():
            if field not in found:
                raise ContractError(f"{self.folder / shard}: sample {key} at offset {offset} has no member {name}.")
        return found

    def load(self, rows: Iterable[int], field: str) -> np.ndarray:
        """One field of many samples, stacked [N, ...] in the stored dtype.

        Raises:
            ContractError: their shapes differ.
        """
        arrays = [sample[field] for sample in self.read_many([int(row) for row in rows], (field,))]
        if len({array.shape for array in arrays}) > 1:
            raise ContractError(
                f"{self.folder}: {field} of these samples have different shapes, and this stage compares clips of one. "
                "Give raw_video one form (cutting.buckets: null, or one size)."
            )
        return np.stack(arrays)
