"""Which clips are judged: prompts of the test split and the clips they are measured against, and the splits beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipelines import stage
from pipelines.data.catalog import COMPOSITION, TEST, TRAIN, VALIDATION
from pipelines.data.shards import Shards
from pipelines.data.subset import subset
from pipelines.evaluation.params import EvaluationParams


@dataclass(frozen=True)
class Part:
    """Clips of one split whose prompts are sampled: rows of the index, each once per seed."""

    rows: list[int]
    seeds: tuple[int, ...]

    @property
    def every(self) -> list[int]:
        """The row of each sample."""
        return self.rows * len(self.seeds)


def parts_of(shards: Shards, params: EvaluationParams, latents: Path) -> tuple[dict[str, Part], list[int], str | None]:
    """What is sampled of each split (``test`` first), the reference rows, and why the test split is another if it is.

    Every other test clip (of footage: of every other file) is asked for; those between are the reference, so that the
    real clips of the prompts are measured as samples are. Of more than ``max_train_clips``, so many are drawn by the
    seed.

    Raises:
        StageError: there are fewer than four clips to judge by.
    """
    why, judged = None, _rows(shards, TEST)
    if not judged:
        judged = _rows(shards, VALIDATION)
        why = "the data set has no test split; the validation split, by which models were chosen, stands in for it"
    if len(judged) < 4:
        raise stage.StageError(f"{latents}: {len(judged)} held-out clips; an evaluation needs at least four.")
    asked, between = _halves(shards, judged)
    asked, reference = asked[: params.num_prompts], subset(between, params.max_train_clips, params.seeds[0])
    parts = {TEST: Part(asked, params.seeds)}
    if why is None:
        parts[VALIDATION] = Part(_rows(shards, VALIDATION)[: params.validation_prompts], params.seeds[:1])
    parts[COMPOSITION] = Part(_rows(shards, COMPOSITION)[: params.composition_prompts], params.seeds[:1])
    return {name: part for name, part in parts.items() if len(part.rows) > 1}, reference, why


def _rows(shards: Shards, split: str) -> list[int]:
    """Rows of a split, none where the data set does not have it: footage of one's own has no compositions."""
    return shards.rows(split).tolist() if split in shards.splits else []


def _halves(shards: Shards, rows: list[int]) -> tuple[list[int], list[int]]:
    """Rows in two parts that share no source file, where there are several files."""
    table = shards.index.iloc[rows]
    files = table["source"].astype(str).tolist() if "source" in table else []
    number = {name: place for place, name in enumerate(dict.fromkeys(files))}
    if len(number) < 2:
        return rows[::2], rows[1::2]
    own = [number[name] % 2 == 0 for name in files]
    return [row for row, first in zip(rows, own, strict=True) if first], [
        row for row, first in zip(rows, own, strict=True) if not first
    ]


def train_rows(shards: Shards, most: int) -> list[int]:
    """Evenly spaced rows of the train split, at most so many: what spaces and readers are fitted on."""
    rows = shards.rows(TRAIN).tolist()
    return rows[:: max(1, -(-len(rows) // most))]


def real_latents(shards: Shards, rows: Sequence[int]) -> Tensor:
    """Stored latents of some rows, float32."""
    return torch.from_numpy(shards.load(rows, "latents").astype(np.float32))


def factor_words(shards: Shards, rows: Sequence[int]) -> dict[str, list[str]]:
    """Known factors of some rows, by name without ``factor_``; columns with gaps are left out."""
    table = shards.index.iloc[list(rows)]
    columns = [name for name in table.columns if str(name).startswith("factor_") and table[name].notna().all()]
    return {str(name).removeprefix("factor_"): table[name].astype(str).tolist() for name in columns}
