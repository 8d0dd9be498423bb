"""Batches for problems of a class: clips of one class side by side, real ones of the class and of all beside them.

What step n holds is a function of (seed, n) alone, so there is no queue to keep or to lose: positives and unconditional
samples are drawn, without replacement, from the training clips as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipelines.data.batches import by_form, collate
from pipelines.data.contract import ContractError
from pipelines.data.shards import Shards
from pipelines.stage import say

UNKNOWN = -1
"""The class of clips whose own class is too small to be a problem: all of them together."""


@dataclass(frozen=True)
class Size:
    """Of one unit of a batch: clips of one class, positives of that class, unconditional clips."""

    clips: int
    positives: int
    unconditional: int


@dataclass(frozen=True)
class Unit:
    """Rows of one unit, and its class."""

    clips: list[int]
    positives: list[int]
    unconditional: list[int]
    pseudo_class: int


class Groups:
    """Training batches of units of one class each; micro-batches hold whole units (``unit`` clips).

    A batch has, besides the fields of its clips [B, …]: ``draw`` int64 [B], a seed of each sample's own;
    ``pseudo_class`` [B]; and from step ``begin`` on ``positives`` [U, P, C, T, H, W] with ``present`` bool [U, P] (a
    class may have fewer) and ``unconditional`` [U, N, C, T, H, W] for its U units; and ``rows`` [B],
    ``positives_rows`` [U, P] and ``unconditional_rows`` [U, N], which rows of the index all these are.

    Args:
        classes: pseudo-class per key.
        balance: 0 draws classes as the data has them, 1 each equally often.

    Raises:
        ContractError: the split is empty, a sample has no class, or no bucket of equal shapes can fill a unit.
    """

    def __init__(
        self,
        shards: Shards,
        split: str,
        fields: Sequence[str],
        batch_size: int,
        seed: int,
        classes: Mapping[str, int],
        size: Size,
        balance: float = 0.0,
        begin: int = 0,
    ) -> None:
        shards.manifest.require(fields, "this training")
        self.shards, self.fields, self.size = shards, tuple(fields), size
        self.batch_size, self.seed, self.begin = batch_size, seed, begin
        rows = shards.rows(split)
        if not len(rows):
            raise ContractError(f"{shards.folder}: split {split} is empty.")
        self.classes = self._of_rows(rows, classes)
        every = by_form(shards, rows).values()
        self.buckets = [bucket for bucket in (self._bucket(part, balance) for part in every) if bucket.groups]
        if not self.buckets:
            raise ContractError(
                f"{shards.folder}: {len(rows)} clips of split {split} do not fill a problem of {size.clips} clips of a "
                f"class, a positive and {size.unconditional} unconditional clips; lower drift.group."
            )

    @property
    def unit(self) -> int:
        """Clips that a micro-batch must hold together."""
        return self.size.clips

    def _of_rows(self, rows: np.ndarray, classes: Mapping[str, int]) -> dict[int, int]:
        keys = self.shards.keys(rows.tolist())
        missing = [key for key in keys if key not in classes]
        if missing:
            raise ContractError(
                f"{self.shards.folder}: {len(missing)} samples have no pseudo_class, first {missing[0]}; run the stage "
                "pseudo_classes again."
            )
        return {row: classes[key] for row, key in zip(rows.tolist(), keys, strict=True)}

    def _bucket(self, rows: np.ndarray, balance: float) -> _Bucket:
        """Groups of the classes that can fill a unit and have a positive beside; the rest is one group."""
        least = self.size.clips + min(1, self.size.positives)
        found: dict[int, list[int]] = {}
        for row in rows.tolist():
            found.setdefault(self.classes[row], []).append(row)
        large = {name: of for name, of in sorted(found.items()) if len(of) >= least}
        rest = [row for name, of in sorted(found.items()) if name not in large for row in of]
        if len(rest) >= least:
            large[UNKNOWN] = rest
        elif rest:
            say(f"{len(rest)} clips lie in classes of fewer than {least}: they are not trained on")
        if len(rows) < self.size.clips + self.size.unconditional:
            large = {}
        weight = np.array([len(of) ** (1.0 - balance) for of in large.values()])
        return _Bucket(rows, list(large.items()), weight / weight.sum() if len(weight) else weight)

    # ---- what a step holds ----

    def units(self, step: int) -> list[Unit]:
        """Those of the global batch of a step, in order."""
        sizes = np.array([len(bucket.rows) for bucket in self.buckets])
        turn = np.random.default_rng([self.seed, step]).choice(len(sizes), p=sizes / sizes.sum())
        count = self.batch_size // self.size.clips
        return [self._unit(self.buckets[turn], step, number) for number in range(count)]

    def _unit(self, bucket: _Bucket, step: int, number: int) -> Unit:
        draw = np.random.default_rng([self.seed, step, 1 + number])
        name, rows = bucket.groups[draw.choice(len(bucket.groups), p=bucket.weight)]
        own = draw.permutation(rows)[: self.size.clips + self.size.positives].tolist()
        clips = own[: self.size.clips]
        others = np.setdiff1d(bucket.rows, clips)
        unconditional = draw.choice(others, self.size.unconditional, replace=False).tolist()
        return Unit(clips, own[self.size.clips :], unconditional, name)

    def keys(self, step: int) -> list[str]:
        """Keys of the clips of the global batch of a step, in order."""
        return self.shards.keys([row for unit in self.units(step) for row in unit.clips])

    def read(self, step: int, start: int, stop: int) -> dict[str, Any]:
        """Clips [start, stop) of the global batch of a step, whole units, and what belongs to them."""
        units = self.units(step)[start // self.size.clips : stop // self.size.clips]
        rows = [row for unit in units for row in unit.clips]
        batch = collate(self.shards.read_many(rows, self.fields))
        batch["key"] = self.shards.keys(rows)
        batch["draw"] = torch.tensor([place_seed(self.seed, step, place) for place in range(start, stop)])
        batch["pseudo_class"] = torch.tensor([unit.pseudo_class for unit in units for _ in unit.clips])
        if step >= self.begin:
            self._beside(batch, units)
        return batch

    def _beside(self, batch: dict[str, Any], units: Sequence[Unit]) -> None:
        """Add positives, padded with clips that are marked as absent, unconditional clips, and the rows of all."""
        batch["rows"] = torch.tensor([row for unit in units for row in unit.clips])
        if self.size.positives:
            padded = [(unit.positives + unit.clips * self.size.positives)[: self.size.positives] for unit in units]
            batch["positives"], batch["positives_rows"] = self._latents(padded), torch.tensor(padded)
            known = torch.tensor([len(unit.positives) for unit in units])
            batch["present"] = torch.arange(self.size.positives) < known[:, None]
        if self.size.unconditional:
            rows = [unit.unconditional for unit in units]
            batch["unconditional"], batch["unconditional_rows"] = self._latents(rows), torch.tensor(rows)

    def _latents(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Latents of units' rows: [U, N, C, T, H, W]."""
        flat = [row for of in rows for row in of]
        read = collate(self.shards.read_many(flat, ("latents",)))["latents"]
        return read.unflatten(0, (len(rows), -1))


@dataclass(frozen=True)
class _Bucket:
    """Rows that can be stacked, the groups of them and how often each is drawn."""

    rows: np.ndarray
    groups: list[tuple[int, list[int]]]
    weight: np.ndarray


def place_seed(seed: int, step: int, place: int) -> int:
    """A seed of a sample's own: of the training's seed, its step and its place in the global batch."""
    digest = hashlib.blake2b(f"{seed}/{step}/{place}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
