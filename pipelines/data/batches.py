"""Training batches from shards: what step n holds is a function of (seed, n) alone, and every batch can be stacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.data.contract import ContractError
from pipelines.data.order import Order, balanced, permuted
from pipelines.data.shards import Shards

FORM = ("num_frames", "height", "width")
"""Columns of the index with a clip's form before it was encoded; clips of one form have latents of one shape."""


def by_form(shards: Shards, rows: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
    """Rows by the form of their clips, (frames, height, width), smallest first; () where all samples have one shape.

    Raises:
        ContractError: shapes differ, and the index does not say of what form a clip is.
    """
    field = shards.manifest.fields.get("latents")
    if field is None or None not in field.shape:
        return {(): rows}
    if not set(FORM) <= set(shards.index.columns):
        raise ContractError(
            f"{shards.folder}: latents differ in shape, but the index has no columns {', '.join(FORM)}; run "
            "latent_shards again."
        )
    forms = shards.index[list(FORM)].to_numpy()[rows]
    found, which = np.unique(forms, axis=0, return_inverse=True)
    return {tuple(form): rows[which == number] for number, form in enumerate(found.tolist())}


class Batches:
    """Training batches of one split, in the order of :class:`pipelines.data.order.Order`.

    The order knows nothing of processes: each reads its own part of the global batch. Samples of different shapes lie
    in different buckets, and a batch comes from one.

    Args:
        shards: where from.
        split: "train", "validation" or "test".
        fields: of the manifest; ``prompt_embeds`` also gives ``prompt_mask``.
        batch_size: of all processes together.
        seed: of the order.
        classes: pseudo-class per key, read as ``pseudo_class``.
        class_balance: 0 draws classes as the data has them, 1 draws each equally often (within each bucket).

    Raises:
        ContractError: a field or the split is not there, the split is empty, or a sample has no class.
    """

    def __init__(
        self,
        shards: Shards,
        split: str,
        fields: Sequence[str],
        batch_size: int,
        seed: int,
        classes: Mapping[str, int] | None = None,
        class_balance: float = 0.0,
    ) -> None:
        shards.manifest.require(fields, "this training")
        self.shards, self.fields = shards, tuple(fields)
        self.rows = shards.rows(split)
        if not len(self.rows):
            raise ContractError(f"{shards.folder}: split {split} is empty.")
        self.classes = None if classes is None else self._classes(classes)
        draw = permuted if self.classes is None else balanced(self.classes, class_balance)
        self.order = Order(list(by_form(shards, self.rows).values()), batch_size, seed, draw)

    def _classes(self, classes: Mapping[str, int]) -> np.ndarray:
        """Class of every row of the index; -1 where a row of another split has none."""
        names = self.shards.index["key"].tolist()
        missing = [names[row] for row in self.rows if names[row] not in classes]
        if missing:
            raise ContractError(
                f"{self.shards.folder}: {len(missing)} samples have no pseudo_class, first {missing[0]}; run the stage "
                "pseudo_classes again."
            )
        return np.array([classes.get(name, -1) for name in names], dtype=np.int64)

    def step_rows(self, step: int) -> list[int]:
        """Index rows of the global batch of a step, in order."""
        return self.order.batch(step).tolist()

    def keys(self, step: int) -> list[str]:
        """Keys of the global batch of a step, in order."""
        return self.shards.keys(self.step_rows(step))

    def read(self, step: int, start: int, stop: int) -> dict[str, Any]:
        """Samples [start, stop) of the global batch of a step, collated by :func:`collate`."""
        rows = self.step_rows(step)[start:stop]
        batch = collate(self.shards.read_many(rows, self.fields))
        batch["key"] = self.shards.keys(rows)
        if self.classes is not None:
            batch["pseudo_class"] = torch.from_numpy(self.classes[rows])
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
