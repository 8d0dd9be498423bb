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
from pipelines.training.flow_generator import EVALUATIONS
from pipelines.training.generator import Generator


@dataclass(frozen=True)
class WorldGenerator(Generator):
    """As any generator, told a first frame and actions.

    Attributes:
        rolling: how it is rolled out, to videos of any length.
        seen: latent frames whose raw actions one frame sees.
    """

    rolling: Roll
    seen: int

    @classmethod
    def read(cls, folder: Path, content: Mapping[str, Any], device: torch.device | str) -> WorldGenerator:
        """What ``generator.json`` describes, with averaged weights where there are any."""
        network = WorldModel.from_pretrained(averaged(folder)).to(device).eval().requires_grad_(False)
        sampling = Sampling.model_validate(content["sampling"])
        roll = Roll(network, Memory, sampling, content["chunk"], content["remembers"])
        needs, takes = tuple(content["needs"]), tuple(content["takes"])
        return cls(folder, content["latents"], needs, takes, roll, content["history"])

    @property
    def history(self) -> int:
        """Latent frames whose raw actions one frame sees."""
        return self.seen

    @property
    def networks(self) -> list[Any]:
        """The network that makes the next frames."""
        return [self.rolling.network]

    @property
    def num_classes(self) -> int | None:
        """It is told no class."""
        return None

    @property
    def evaluations(self) -> int:
        """Forwards for one chunk, that which fills the memory not counted."""
        return self.rolling.sampling.steps * EVALUATIONS[self.rolling.sampling.sampler]

    @property
    def story(self) -> str:
        """Steps and sampler of every chunk."""
        sampling = self.rolling.sampling
        return f"{sampling.steps} {sampling.sampler} steps for every {self.rolling.chunk} latent frames"

    def with_sampling(
        self, steps: int | None = None, guidance: Guidance | None = None, sampler: str | None = None
    ) -> WorldGenerator:
        """The same with other steps per chunk or another sampler; guidance means nothing here: there is no prompt."""
        changed = {name: value for name, value in (("steps", steps), ("sampler", sampler)) if value is not None}
        sampling = Sampling.model_validate({**self.rolling.sampling.model_dump(), **changed})
        return replace(self, rolling=replace(self.rolling, sampling=sampling))

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
