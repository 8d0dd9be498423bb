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
from pipelines.data.actions import aligned, require_same, stated
from pipelines.data.batches import pad
from pipelines.data.prompt_classes import classes_by_prompt
from pipelines.data.shards import Shards
from pipelines.evaluation.params import SamplingChange
from pipelines.evaluation.pixels import InPixels
from pipelines.threads import at_once, side_by_side
from pipelines.training import checkpoint
from pipelines.training.generator import Generator, found
from pipelines.training.picture_refining import KeypatchGenerator
from pipelines.training.precision import computing


def load_systems(
    checkpoints: Path, shards: Shards, change: SamplingChange | None, device: torch.device
) -> dict[str, Generator]:
    """Every generator in the folder of checkpoints, with averaged weights, checked against the latents to be judged on.

    Raises:
        StageError: there is none; one is damaged, of an unknown kind, or was trained on another autoencoder's latents.
    """
    loaded, folders = {}, found(checkpoints)
    if not folders:
        raise stage.StageError(f"{checkpoints}: holds no generator (no */generator.json); train one first.")
    for name, folder in folders.items():
        checkpoint.read(folder)
        generator = Generator.load(folder, device)
        generator.require_autoencoder(shards.manifest.autoencoder.digest, f"that of {shards.folder}")
        if "actions" in generator.needs:
            require_same(stated(generator.facts["actions"]), shards.manifest.actions, str(shards.folder))
        if change is not None:
            generator = generator.with_sampling(change.steps, change.guidance)
        loaded[name] = generator
    return loaded


SEED_STRIDE = 1_000_003
"""Between the noise seeds of one params seed and those of the next: no sample shares noise with another."""


# ---- what to sample -----------------------------------------------------------------------------------------------


def classes_of_prompts(shards: Shards, pseudo_classes: Path, rows: Sequence[int], neighbours: int) -> Tensor:
    """The class [N] that most of the nearest training prompts have, as ``assignments.parquet`` lists them.

    Raises:
        StageError: the assignments lack a training clip.
    """
    table = pd.read_parquet(pseudo_classes / "assignments.parquet")
    classes = dict(zip(table["key"], map(int, table["pseudo_class"]), strict=True))
    try:
        return classes_by_prompt(shards, classes, rows, neighbours)
    except stage.StageError as error:
        raise stage.StageError(f"{pseudo_classes}: {error}") from None


@dataclass(frozen=True)
class Requests:
    """What to sample: N conditions and seeds, all prompts of the first seed first.

    Attributes:
        conditions: by name (:data:`pipelines.training.generator.CONDITIONS`), each of N samples but ``empty_prompt``.
        seeds: of the noise.
        real: latents of the real clips of the same prompts, from which frames are given to those who need some.
    """

    conditions: dict[str, Tensor]
    seeds: tuple[int, ...]
    real: Tensor

    @classmethod
    def of(cls, shards: Shards, rows: Sequence[int], pseudo_class: Tensor, seeds: Sequence[int]) -> Requests:
        """Every row's prompt once per seed; with actions, where the shards have some."""
        copies = len(seeds)
        wanted = ("latents", "prompt_embeds", *(["actions"] if "actions" in shards.manifest.fields else []))
        read = [shards.read(row, wanted) for row in rows]
        embeds, mask = pad([torch.from_numpy(one["prompt_embeds"].astype(np.float32)) for one in read])
        real = torch.stack([torch.from_numpy(one["latents"].astype(np.float32)) for one in read])
        told = {"prompt_embeds": embeds.repeat(copies, 1, 1), "prompt_mask": mask.repeat(copies, 1)}
        told["pseudo_class"] = pseudo_class.repeat(copies)
        if all("actions" in one for one in read):
            actions = torch.stack([torch.from_numpy(one["actions"].astype(np.float32)) for one in read])
            told["actions"] = actions.repeat(copies, 1, 1)
        told["empty_prompt"] = torch.from_numpy(shards.empty_prompt)
        each = tuple(seed * SEED_STRIDE + number for seed in seeds for number in range(len(rows)))
        return cls(told, each, real.repeat(copies, 1, 1, 1, 1))

    def given_mask(self, generator: Generator) -> Tensor | None:
        """What of the real clips it is given: as many frames as at its sparsest level, evenly spaced, bool [N, T]; or
        as many patches, drawn by the seeds, bool [N, T, H, W].

        None for a generator that needs neither.
        """
        if isinstance(generator, KeypatchGenerator | InPixels):
            return generator.drawn_mask(self.seeds, self.real.shape[1:])
        if "keyframes" not in generator.needs:
            return None
        count, frames = len(self.real), self.real.shape[2]
        mask = torch.zeros(count, frames, dtype=torch.bool)
        evenly = torch.linspace(0, frames - 1, generator.facts.get("num_keyframes", 2)).round().long()
        mask[:, generator.facts.get("keyframes", evenly)] = True
        return mask

    def missing(self, generator: Generator) -> Tensor | None:
        """What it is not given, bool [N, T] or [N, T, H, W]; None where it is given nothing."""
        if isinstance(generator, InPixels):
            return torch.ones(self.real.shape[:1] + self.real.shape[2:], dtype=torch.bool)
        mask = self.given_mask(generator)
        return None if mask is None else ~mask

    def part(self, generator: Generator, part: slice) -> dict[str, Tensor]:
        """What this generator needs of some samples; frames of the real clip only where it cannot do without.

        Raises:
            StageError: it needs something that the data set does not have.
        """
        told = {name: value if name == "empty_prompt" else value[part] for name, value in self.conditions.items()}
        real = self.real[part]
        if "first_frame" in generator.needs:
            told["first_frame"] = real[:, :, :1]
        mask = self.given_mask(generator)
        if mask is not None:
            given = mask[part]
            if isinstance(generator, InPixels):
                told |= {"keypatches": real, "keypatch_mask": given}
            elif given.dim() == 2:
                told |= {"keyframes": real * given[:, None, :, None, None], "keyframe_mask": given}
            else:
                told |= {"keypatches": real * given[:, None], "keypatch_mask": given}
        if "actions" in told and generator.history:
            stride = generator.facts["autoencoder"]["temporal_stride"]
            told["actions"] = aligned(told["actions"], stride, generator.history)
        absent = [name for name in generator.needs if name != "prompt" and name not in told]
        if absent:
            raise stage.StageError(f"{generator.folder}: needs {', '.join(absent)}, which these latents do not have.")
        return told


def generate(name: str, generator: Generator, requests: Requests, batch_size: int, precision: str) -> Tensor:
    """Latents [N, C, T, H, W] on the CPU; a sample is the same whatever else is in its batch.

    On processors batches go side by side, each on a thread of torch, computed in ``precision``: fp32 or bf16.
    """
    count, device = len(requests.seeds), generator.device
    together = 1 if isinstance(generator, InPixels) else at_once(device)  # some autoencoders remember what they see
    batches = [slice(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]

    def sampled(batch: slice) -> Tensor:
        with computing(precision, device):
            return generator.sample(requests.part(generator, batch), requests.seeds[batch]).float().cpu()

    made = []
    for batch, latents in side_by_side(sampled, batches, together):
        made.append(latents)
        stage.report(batch.stop, count, f"{name} sample")
    return torch.cat(made)


def starting_points(systems: Mapping[str, Generator], requests: Requests) -> dict[str, Tensor]:
    """By system, the clips [N, C, T, H, W] that it corrects, of those that start from clips."""
    whole = slice(0, len(requests.seeds))
    found = {name: one.starting_clips(requests.part(one, whole)) for name, one in systems.items()}
    return {name: clips.float().cpu() for name, clips in found.items() if clips is not None}
