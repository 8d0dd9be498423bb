"""A trained world model, ready to be rolled out: kind ``world_model`` of :mod:`pipelines.training.generator`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.flow.params import Guidance, Sampling
from pipelines.flow.rollout import ChunkNoise, Roll
from pipelines.models.denoiser import averaged
from pipelines.models.frame_attention import Memory
from pipelines.models.world_model import WorldModel
from pipelines.training.generator import Generator


@dataclass(frozen=True)
class WorldGenerator(Generator):
    """As any generator, told a first frame and actions; ``roll`` makes videos of any length."""

    roll: Roll | None = None
    seen: int = 1

    @classmethod
    def of(cls, folder: Path, content: Mapping[str, Any], device: torch.device | str) -> WorldGenerator:
        """What ``generator.json`` describes, with averaged weights where there are any."""
        network = WorldModel.from_pretrained(averaged(folder)).to(device).eval().requires_grad_(False)
        sampling = Sampling.model_validate(content["sampling"])
        roll = Roll(network, Memory, sampling, content["chunk"], content["remembers"])
        told = {name: tuple(content[name]) for name in ("needs", "takes")}
        return cls(folder, (), content["latents"], **told, roll=roll, seen=content["history"])

    @property
    def rolling(self) -> Roll:
        """How it is rolled out."""
        assert self.roll is not None
        return self.roll

    @property
    def history(self) -> int:
        """Latent frames whose raw actions one frame sees."""
        return self.seen

    @property
    def device(self) -> torch.device:
        """Where its network lives."""
        return next(self.rolling.network.parameters()).device

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns per token."""
        return self.rolling.network.patch

    @property
    def num_classes(self) -> int | None:
        """It is told no class."""
        return None

    def with_sampling(
        self, steps: int | None = None, guidance: Guidance | None = None, sampler: str | None = None
    ) -> WorldGenerator:
        """The same with other steps per chunk or another sampler; guidance means nothing here: there is no prompt."""
        changed = {name: value for name, value in (("steps", steps), ("sampler", sampler)) if value is not None}
        sampling = Sampling.model_validate({**self.rolling.sampling.model_dump(), **changed})
        return replace(self, roll=replace(self.rolling, sampling=sampling))

    def without_guidance(self) -> WorldGenerator:
        """The same: it has none."""
        return self

    def sample(
        self, conditions: Mapping[str, Any], seeds: Sequence[int], shape: tuple[int, int, int, int] | None = None
    ) -> Tensor:
        """Latents [B, C, T, H, W] rolled out from ``first_frame`` under ``actions``, a frame per window of actions.

        Raises:
            ValueError: one of the two is missing, or ``shape`` asks for more frames than there are actions.
        """
        absent = [name for name in self.needs if conditions.get(name) is None]
        if absent:
            raise ValueError(
                f"{self.folder}: a world model goes by {', '.join(self.needs)}; absent: {', '.join(absent)}."
            )
        first, actions = (conditions[name].to(self.device) for name in ("first_frame", "actions"))
        frames = actions.shape[1] if shape is None else shape[1]
        if frames > actions.shape[1]:
            raise ValueError(
                f"{self.folder}: {frames} latent frames are asked for, but actions reach {actions.shape[1]}."
            )
        return self.rolling.out(first, actions[:, :frames], ChunkNoise(seeds))
