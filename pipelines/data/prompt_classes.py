"""The pseudo-class of a prompt, from text alone: what held-out clips are told in place of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pipelines.data.catalog import TRAIN
from pipelines.data.shards import Shards
from pipelines.stage import StageError

NEIGHBOURS = 5
"""Training prompts that vote, where a stage does not state another number."""
MOST_PROMPTS = 16384
"""Training prompts that are looked through, evenly spaced."""


def _prompt_vectors(shards: Shards, rows: Sequence[int]) -> Tensor:
    """Mean token embedding [N, D] of prompts, unit length."""
    means = np.stack([shards.read(row, ("prompt_embeds",))["prompt_embeds"].astype(np.float32).mean(0) for row in rows])
    return torch.nn.functional.normalize(torch.from_numpy(means), dim=1)


def classes_by_prompt(
    shards: Shards, classes: Mapping[str, int], rows: Sequence[int], neighbours: int = NEIGHBOURS
) -> Tensor:
    """The class [N] that most of the nearest training prompts have; the first of them decides a tie.

    The class of a held-out clip is computed from the clip itself, motion and all: told to a generator, it would betray
    the answer. Samples are made from text alone.

    Raises:
        StageError: a training clip has no class.
    """
    train = shards.rows(TRAIN).tolist()
    train = train[:: max(1, -(-len(train) // MOST_PROMPTS))]
    keys = shards.index["key"].to_numpy()[train]
    missing = [key for key in keys if key not in classes]
    if missing:
        raise StageError(f"{len(missing)} training clips have no class, first {missing[0]}.")
    own = torch.tensor([classes[key] for key in keys], dtype=torch.int64)
    near = (_prompt_vectors(shards, rows) @ _prompt_vectors(shards, train).T).topk(min(neighbours, len(train))).indices
    votes = torch.nn.functional.one_hot(own[near], int(own.max()) + 1).float()
    closeness = torch.linspace(1.0, 0.999, votes.shape[1])[None, :, None]
    return (votes * closeness).sum(1).argmax(1)
