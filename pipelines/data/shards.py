"""Reading shards: any sample at any time through the index, only the fields that are asked for, and training batches.

The files are ordinary WebDataset tars, but they are read through memory maps by the byte offsets of ``index.parquet``:
random access, exact resume (a batch is a function of the step) and no silent loss of a damaged sample.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipelines.data.contract import EMPTY_PROMPT, INDEX, MANIFEST, MEMBERS, ContractError, Manifest
from pipelines.data.tar import array, members
from pipelines.stage import file_digest

OPEN_SHARDS = 64
"""Most memory maps kept at once."""

CHECKSUM = "crc32_"
"""Prefix of the index columns with the CRC-32 of each member's content."""


@dataclass(frozen=True)
class Damage:
    """What :meth:`Shards.verify` found wrong: file, member (or ""), byte offset in the file, and in words."""

    file: str
    member: str
    offset: int
    what: str

    def __str__(self) -> str:
        member = f", member {self.member}" if self.member else ""
        return f"{self.file}{member}, offset {self.offset}: {self.what}"


class Shards:
    """A folder of latents, read by row of its index.

    Raises:
        ContractError: manifest or index is missing or of another version, or they contradict each other.
    """

    def __init__(self, folder: Path) -> None:
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
        self._maps: dict[str, mmap.mmap] = {}
        self._keys = self.index["key"].tolist()
        self._shards = self.index["shard"].tolist()
        self._places = list(zip(self.index["offset"].tolist(), self.index["size"].tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split, in the order of the index.

        Raises:
            ContractError: there is no such split.
        """
        if split not in self.manifest.splits:
            raise ContractError(f"{self.folder}: no split {split}; there are {', '.join(self.manifest.splits)}.")
        return np.flatnonzero(self.index["split"].to_numpy() == split)

    @cached_property
    def empty_prompt(self) -> np.ndarray:
        """Embedding of the empty prompt, float32 [L, D]."""
        return np.load(self.folder / EMPTY_PROMPT, allow_pickle=False).astype(np.float32)

    # ---- samples ----

    def _map(self, name: str) -> mmap.mmap:
        known = self._maps.get(name)
        if known is not None:
            return known
        path, facts = self.folder / name, self.manifest.shards[name]
        if not path.is_file():
            raise ContractError(f"{path}: named in {MANIFEST} but missing; `dvc checkout` restores it.")
        if path.stat().st_size != facts.size:
            raise ContractError(
                f"{path}: {path.stat().st_size} bytes, {MANIFEST} states {facts.size}; `dvc checkout` restores it."
            )
        with path.open("rb") as stream:
            opened = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        while len(self._maps) >= OPEN_SHARDS:  # arrays that still look into a dropped map keep it alive
            self._maps.pop(next(iter(self._maps)), None)
        self._maps[name] = opened
        return opened

    def read(self, row: int, fields: Iterable[str]) -> dict[str, Any]:
        """One sample: arrays (read-only views into the shard) and strings of the wanted fields; no other is decoded.

        Raises:
            ContractError: the sample's part of the shard is damaged, or it has no such field.
        """
        shard, (offset, size), key = self._shards[row], self._places[row], self._keys[row]
        content = self._map(shard)
        wanted = {f"{key}.{MEMBERS[field]}": field for field in fields}
        found: dict[str, Any] = {}
        try:
            for name, begin, length in members(content, offset, size):
                if name in wanted:
                    view = memoryview(content)[begin : begin + length]
                    found[wanted[name]] = bytes(view).decode() if name.endswith(".txt") else array(view)
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
        arrays = [self.read(int(row), (field,))[field] for row in rows]
        if len({array.shape for array in arrays}) > 1:
            raise ContractError(f"{self.folder}: {field} of these samples have different shapes and cannot be stacked.")
        return np.stack(arrays)

    # ---- verification ----

    def verify(self) -> list[Damage]:
        """Read every byte and compare it with what the manifest and the index record; empty when all is well."""
        found = []
        stray = {path.name for path in self.folder.glob("latents-*.tar")} - set(self.manifest.shards)
        found += [Damage(name, "", 0, "a foreign shard, not in the manifest") for name in sorted(stray)]
        for name, facts in self.manifest.shards.items():
            path = self.folder / name
            if not path.is_file():
                found.append(Damage(name, "", 0, "missing"))
            elif path.stat().st_size != facts.size:
                found.append(Damage(name, "", min(path.stat().st_size, facts.size), "has another size than recorded"))
            elif file_digest(path) != facts.sha256:
                found += self._locate(name)
        for name, sha256 in self.manifest.files.items():
            if not (self.folder / name).is_file():
                found.append(Damage(name, "", 0, "missing"))
            elif file_digest(self.folder / name) != sha256:
                found.append(Damage(name, "", 0, "is not the file that the manifest records"))
        return found

    def _locate(self, name: str) -> list[Damage]:
        """Members of a changed shard whose content differs from the index, or the shard itself."""
        self._maps.pop(name, None)
        content, found = self._map(name), []
        for row in np.flatnonzero(self.index["shard"].to_numpy() == name):
            key, (offset, size) = self._keys[row], self._places[row]
            try:
                for member, begin, length in members(content, offset, size):
                    recorded = self.index.at[row, CHECKSUM + member.removeprefix(f"{key}.").partition(".")[0]]
                    if zlib.crc32(content[begin : begin + length]) != recorded:
                        found.append(Damage(name, member, begin, "content differs from its checksum"))
            except (ValueError, KeyError) as error:
                found.append(Damage(name, key, offset, str(error)))
        return found or [Damage(name, "", 0, "padding between members was changed")]


# ---- batches ------------------------------------------------------------------------------------------------------


class Batches:
    """Training batches of one split: what step n holds is a function of (seed, n) alone.

    Samples come in an endless stream of epochs, each a permutation made from (seed, epoch). The order knows nothing of
    processes: each reads its own part of the global batch.

    Args:
        shards: where from.
        split: "train" or "held_out".
        fields: of the manifest; ``prompt_embeds`` also gives ``prompt_mask``.
        batch_size: of all processes together.
        seed: of the order.
        extra: further integers per key, such as ``{"pseudo_class": {key: class}}``.

    Raises:
        ContractError: a field or the split is not there, the split is empty, or an extra lacks a key.
    """

    def __init__(
        self,
        shards: Shards,
        split: str,
        fields: Sequence[str],
        batch_size: int,
        seed: int,
        extra: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        shards.manifest.require(fields, "this training")
        self.shards, self.fields, self.batch_size, self.seed = shards, tuple(fields), batch_size, seed
        self.rows = shards.rows(split)
        if not len(self.rows):
            raise ContractError(f"{shards.folder}: split {split} is empty.")
        names = shards.index["key"].to_numpy()[self.rows]
        self.names = dict(zip(self.rows.tolist(), names.tolist(), strict=True))
        self.extra = {}
        for name, values in (extra or {}).items():
            missing = [key for key in names if key not in values]
            if missing:
                raise ContractError(f"{shards.folder}: {len(missing)} samples have no {name}, first {missing[0]}.")
            self.extra[name] = values
        self._epoch = lru_cache(maxsize=4)(self._permuted)

    def _permuted(self, epoch: int) -> np.ndarray:
        return self.rows[np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))]

    def step_rows(self, step: int) -> list[int]:
        """Index rows of the global batch of a step, in order."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        return [int(self._epoch(place // len(self.rows))[place % len(self.rows)]) for place in places]

    def keys(self, step: int) -> list[str]:
        """Keys of the global batch of a step, in order."""
        return [self.names[row] for row in self.step_rows(step)]

    def read(self, step: int, start: int, stop: int) -> dict[str, Any]:
        """Samples [start, stop) of the global batch of a step, collated by :func:`collate`."""
        rows = self.step_rows(step)[start:stop]
        batch = collate([self.shards.read(row, self.fields) for row in rows])
        batch["key"] = [self.names[row] for row in rows]
        for name, values in self.extra.items():
            batch[name] = torch.tensor([values[key] for key in batch["key"]], dtype=torch.int64)
        return batch


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Samples to one batch: float32 tensors, strings as lists, embeddings padded with a mask.

    ``latents`` [B, C, T, H, W]; ``prompt_embeds`` [B, L, D] with zeros beyond each prompt and ``prompt_mask`` bool
    [B, L]; ``actions`` [B, T, A]; ``prompt`` list of B strings.
    """
    batch: dict[str, Any] = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        if name == "prompt":
            batch[name] = values
        elif name == "prompt_embeds":
            batch[name], batch["prompt_mask"] = pad([torch.tensor(value, dtype=torch.float32) for value in values])
        else:
            batch[name] = torch.from_numpy(np.stack(values).astype(np.float32))
    return batch


def pad(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Sequences [L_i, D] to [B, L, D] with zeros at the end, and the mask [B, L] of what is real."""
    padded = torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]
