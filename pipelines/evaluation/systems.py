"""The trained generators, and the samples they give at fixed prompts and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipelines import stage
from pipelines.data.batches import pad
from pipelines.data.shards import Shards
from pipelines.evaluation.params import SamplingChange
from pipelines.training import checkpoint
from pipelines.training.generator import Generator


def load_systems(
    folders: Mapping[str, Path], shards: Shards, change: SamplingChange | None, device: torch.device
) -> dict[str, Generator]:
    """The generators of checkpoint folders, with averaged weights, checked against the latents they are judged on.

    Raises:
        StageError: a folder is no checkpoint of a flow, is damaged, or was trained on another autoencoder's latents.
    """
    loaded = {}
    for name, folder in folders.items():
        checkpoint.read(folder)
        generator = Generator.load(folder, device)
        generator.require_autoencoder(shards.manifest.autoencoder.digest, f"that of {shards.folder}")
        if change is not None:
            generator = generator.with_sampling(change.steps, change.guidance)
        loaded[name] = generator
    return loaded


SEED_STRIDE = 1_000_003
"""Between the noise seeds of one params seed and those of the next: no sample shares noise with another."""


# ---- what to sample -----------------------------------------------------------------------------------------------


def _prompt_vectors(shards: Shards, rows: Sequence[int]) -> Tensor:
    """Mean token embedding [N, D] of prompts, unit length."""
    means = np.stack([shards.read(row, ("prompt_embeds",))["prompt_embeds"].astype(np.float32).mean(0) for row in rows])
    return torch.nn.functional.normalize(torch.from_numpy(means), dim=1)


def classes_by_prompt(shards: Shards, pseudo_classes: Path, rows: Sequence[int], neighbours: int) -> Tensor:
    """The class [N] that most of the nearest training prompts have; the first of them decides a tie.

    A class of a held-out clip is computed from the clip itself. Samples are made from text alone, so here the class
    comes from the prompt.

    Raises:
        StageError: the assignments lack a training clip.
    """
    assignments = pd.read_parquet(pseudo_classes / "assignments.parquet").set_index("key")["pseudo_class"]
    train = shards.rows("train").tolist()
    keys = shards.index["key"].to_numpy()[train]
    missing = [key for key in keys if key not in assignments.index]
    if missing:
        raise stage.StageError(f"{pseudo_classes}: {len(missing)} training clips have no class, first {missing[0]}.")
    classes = torch.tensor(assignments.loc[keys].to_numpy(), dtype=torch.int64)
    near = (_prompt_vectors(shards, rows) @ _prompt_vectors(shards, train).T).topk(min(neighbours, len(train))).indices
    votes = torch.nn.functional.one_hot(classes[near], int(classes.max()) + 1).float()
    closeness = torch.linspace(1.0, 0.999, votes.shape[1])[None, :, None]
    return (votes * closeness).sum(1).argmax(1)


@dataclass(frozen=True)
class Requests:
    """What to sample: prompt_embeds [N, L, D], prompt_mask [N, L], and class and seed of each."""

    prompt_embeds: Tensor
    prompt_mask: Tensor
    empty_prompt: Tensor
    pseudo_class: Tensor
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, shards: Shards, rows: Sequence[int], pseudo_class: Tensor, seeds: Sequence[int]) -> Requests:
        """Every row's prompt once per seed, all prompts of the first seed first."""
        read = [shards.read(row, ("prompt_embeds",))["prompt_embeds"].astype(np.float32) for row in rows]
        embeds, mask = pad([torch.from_numpy(value) for value in read])
        copies, empty = len(seeds), torch.from_numpy(shards.empty_prompt)
        each = tuple(seed * SEED_STRIDE + number for seed in seeds for number in range(len(rows)))
        return cls(embeds.repeat(copies, 1, 1), mask.repeat(copies, 1), empty, pseudo_class.repeat(copies), each)


def generate(name: str, generator: Generator, requests: Requests, batch_size: int) -> Tensor:
    """Latents [N, C, T, H, W] on the CPU; a sample is the same whatever else is in its batch."""
    made, count = [], len(requests.seeds)
    for start in range(0, count, batch_size):
        part = slice(start, start + batch_size)
        embeds, mask = requests.prompt_embeds[part], requests.prompt_mask[part]
        seeds, classes = requests.seeds[part], requests.pseudo_class[part]
        made.append(generator.sample(embeds, mask, requests.empty_prompt, seeds, classes).float().cpu())
        stage.report(min(start + batch_size, count), count, f"{name} sample")
    return torch.cat(made)
