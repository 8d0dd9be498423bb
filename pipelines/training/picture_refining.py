"""Generators of the kind ``keypatch_refiner``: pictures from some of their patches, a clip frame by frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from pipelines.flow import keyframes, patches
from pipelines.flow.filling import alike, level_share
from pipelines.flow.params import PatchFilling
from pipelines.flow.sampling import seeded_noise
from pipelines.models.denoiser import averaged
from pipelines.models.refiner import Refiner
from pipelines.training.refining import OneStep, told_of

FRAME_SEEDS = 0x85EBCA6B
"""Between the seeds of the masks of a clip's frames."""


def by_frame(clips: Tensor) -> Tensor:
    """[B, C, T, H, W] as pictures [B T, C, 1, H, W]."""
    return clips.transpose(1, 2).flatten(0, 1)[:, :, None]


@dataclass(frozen=True)
class KeypatchGenerator(OneStep):
    """A refiner of pictures and how it is asked.

    Attributes:
        space: what it refines: latents or pixels.
        side: of a given patch.
        filling: what stands in missing patches before it sees them.
    """

    space: str
    side: int
    filling: PatchFilling

    @classmethod
    def read(cls, folder: Path, content: Mapping[str, Any], device: torch.device | str) -> KeypatchGenerator:
        """The refiner that ``generator.json`` describes."""
        return cls(
            folder=folder,
            facts=content["latents"],
            needs=tuple(content["needs"]),
            takes=tuple(content["takes"]),
            refiner=Refiner.from_pretrained(averaged(folder)).to(device).eval(),
            space=content["space"],
            side=content["patch"],
            filling=TypeAdapter(PatchFilling).validate_python(content["filling"]),
            levels=tuple(content["levels"]),
            clamp=content["clamp"],
            **content["sampling"],
        )

    @property
    def story(self) -> str:
        """Filling and steps."""
        return f"patches filled in ({self.filling.mode}) and refined in {self.steps} step{'s' * (self.steps > 1)}"

    def drawn_mask(self, seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
        """Which elements are given of clips [C, T, H, W], one per seed: bool [B, T, H, W].

        The patches of its sparsest level where training chose them and pictures are of its size; else as many, others
        in every frame.

        Raises:
            StageError: the clips are not a whole number of patches.
        """
        grid = patches.grid_of(shape[2], shape[3], self.side)
        count = round(self.levels[-1] / self.levels[0] * grid[0] * grid[1])
        if "keypatches" in self.facts and grid[0] * grid[1] == self.levels[0]:
            given = torch.zeros(1, 1, self.levels[0], dtype=torch.bool)
            given[:, :, self.facts["keypatches"]] = True
            return patches.elements(given, grid, self.side)[:, 0].expand(len(seeds), *shape[1:])
        frames = []
        for seed in seeds:
            draw = torch.Generator().manual_seed((seed * FRAME_SEEDS + 1) & 0xFFFFFFFF)
            scores = torch.rand(shape[1], grid[0] * grid[1], generator=draw)
            chosen = keyframes.ranked(scores, [max(1, count)], False)
            frames.append(patches.elements(chosen, grid, self.side)[:, 0, 0])
        return torch.stack(frames)

    def starting_clips(self, conditions: Mapping[str, Any]) -> Tensor:
        """The clips with their missing patches filled in, [B, C, T, H, W].

        Raises:
            ValueError: patches or their mask are missing or do not fit. StageError: of a frame nothing is given.
        """
        absent = [name for name in ("keypatches", "keypatch_mask") if conditions.get(name) is None]
        if absent:
            raise ValueError(f"{self.folder}: starts from patches of pictures; conditions lack {', '.join(absent)}.")
        clip, mask = conditions["keypatches"], conditions["keypatch_mask"]
        if clip.shape[1] != self.shape[0] or mask.shape != (len(clip), *clip.shape[2:]):
            raise ValueError(
                f"{self.folder}: patches {list(clip.shape)} with a mask {list(mask.shape)}; wanted are "
                f"[B, {self.shape[0]}, T, H, W] and [B, T, H, W]."
            )
        filled = patches.fill(by_frame(clip), mask.flatten(0, 1)[:, None], self.side, self.filling)
        return filled[:, :, 0].unflatten(0, (len(clip), -1)).transpose(1, 2)

    @torch.no_grad()
    def sample(
        self, conditions: Mapping[str, Any], seeds: Sequence[int], shape: tuple[int, int, int, int] | None = None
    ) -> Tensor:
        """As :meth:`Generator.sample`, from ``keypatches`` and ``keypatch_mask``, whose shape is that of the samples.

        Raises:
            ValueError: patches are missing or do not fit, or a prompt is too long.
        """
        clips = self.starting_clips(conditions).to(self.device)
        count, frames = len(clips), clips.shape[2]
        filled, mask = by_frame(clips), conditions["keypatch_mask"].to(self.device).flatten(0, 1)[:, None]
        noise = by_frame(self.noise_std * seeded_noise(seeds, clips.shape[1:]).to(clips))
        told = told_of(conditions, count, self.alpha, self.refiner, self.device)
        told = {name: part.repeat_interleave(frames, 0) for name, part in told.items()}
        unsure, kept = alike(level_share(mask, self.levels), mask) * (~mask).to(filled), mask if self.clamp else None
        filled = self.corrected(filled, unsure, mask, noise, told, kept)
        return filled[:, :, 0].unflatten(0, (count, frames)).transpose(1, 2)
