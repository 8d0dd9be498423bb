"""The trained generators as ways from noise to latents, and the samples they give at fixed prompts and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipelines import stage
from pipelines.data.shards import Shards, pad
from pipelines.flow.params import Sampling
from pipelines.flow.sampling import Phase, seeded_noise, walk
from pipelines.models.denoiser import VideoDenoiser
from pipelines.training import checkpoint


@dataclass(frozen=True)
class System:
    """A generator: phases from noise to latents, and whether all frames start from one noise."""

    name: str
    phases: tuple[Phase, ...]
    shared_noise: bool


def load_denoiser(folder: Path, device: torch.device) -> VideoDenoiser:
    """The averaged weights of a checkpoint where it has them, frozen.

    Raises:
        StageError: the folder is no checkpoint, or its weights are not the recorded ones.
    """
    checkpoint.read(folder)
    averaged = folder / "ema"
    denoiser = VideoDenoiser.from_pretrained(averaged if averaged.is_dir() else folder)
    return denoiser.eval().requires_grad_(False).to(device)


def junction_of(folder: Path) -> float:
    """The level at which an anchored flow passes through its anchor: a fact of the checkpoint.

    Raises:
        StageError: the checkpoint does not record one.
    """
    anchor = checkpoint.read(folder)["params"].get("anchor")
    if not isinstance(anchor, Mapping) or "junction" not in anchor:
        raise stage.StageError(f"{folder / 'checkpoint.json'}: params.anchor.junction is missing: no anchored flow.")
    return float(anchor["junction"])


def load_systems(
    rectified: Path, identity: Path, motion: Path, sampling: Sampling, device: torch.device
) -> list[System]:
    """Rectified flow, the identity stage alone (its clips stand still), and both stages of anchored flow."""
    junction = junction_of(motion)
    if junction != junction_of(identity):
        raise stage.StageError(
            f"{identity} and {motion} meet at different levels ({junction_of(identity):g}, {junction:g}); train the "
            "motion stage from this identity stage with the same anchor.junction."
        )
    first = Phase(load_denoiser(identity, device), sampling, 1.0, junction, still=True)
    second = Phase(load_denoiser(motion, device), sampling, junction, 0.0)
    whole = Phase(load_denoiser(rectified, device), sampling)
    return [
        System("rectified_flow", (whole,), shared_noise=False),
        System("anchored_flow_identity", (first,), shared_noise=True),
        System("anchored_flow", (first, second), shared_noise=True),
    ]


# ---- conditions ---------------------------------------------------------------------------------------------------


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
    """What to sample: prompt_embeds [N, L, D] and prompt_mask [N, L], class and seed of each, and the latents' shape."""

    text: Mapping[str, Tensor]
    pseudo_class: Tensor
    seeds: tuple[int, ...]
    shape: tuple[int, ...]
    empty_prompt: Tensor

    @classmethod
    def of(cls, shards: Shards, rows: Sequence[int], pseudo_class: Tensor, seeds: Sequence[int]) -> Requests:
        """Every row's prompt once per seed, all prompts of the first seed first."""
        read = [shards.read(row, ("prompt_embeds",))["prompt_embeds"].astype(np.float32) for row in rows]
        embeds, mask = pad([torch.from_numpy(value) for value in read])
        text = {"prompt_embeds": embeds.repeat(len(seeds), 1, 1), "prompt_mask": mask.repeat(len(seeds), 1)}
        each = tuple(seed * 1_000_003 + number for seed in seeds for number in range(len(rows)))
        shape = shards.load(rows[:1], "latents").shape[1:]
        empty = torch.from_numpy(shards.empty_prompt)
        return cls(text, pseudo_class.repeat(len(seeds)), each, tuple(shape), empty)


def _conditions(phase: Phase, text: Mapping[str, Any], pseudo_class: Tensor) -> dict[str, Any]:
    """What the phase's denoiser takes: the class only where it was trained with classes."""
    takes_class = getattr(phase.denoiser, "num_classes", None) is not None
    return {**text, "pseudo_class": pseudo_class} if takes_class else dict(text)


@torch.no_grad()
def generate(system: System, requests: Requests, batch_size: int, device: torch.device) -> Tensor:
    """Latents [N, C, T, H, W] on the CPU; a sample is the same whatever else is in its batch."""
    made, count = [], len(requests.seeds)
    for start in range(0, count, batch_size):
        part = slice(start, start + batch_size)
        x = seeded_noise(requests.seeds[part], requests.shape, shared=system.shared_noise).to(device)
        text = {name: value[part].to(device) for name, value in requests.text.items()}
        for phase in system.phases:
            conditions = _conditions(phase, text, requests.pseudo_class[part].to(device))
            x = walk([phase], x, conditions, requests.empty_prompt.to(device))
        made.append(x.float().cpu())
        stage.report(min(start + batch_size, count), count, f"{system.name} sample")
    return torch.cat(made)
