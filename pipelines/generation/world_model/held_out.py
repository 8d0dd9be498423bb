"""Held-out loss of a world model at fixed noise and levels; the same with other actions, or another past."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipelines.flow.path import per_sample, velocity
from pipelines.generation.validation import SEED
from pipelines.generation.world_model.objective import Chunked, WorldModelObjective
from pipelines.models.frame_attention import Shared
from pipelines.training.objective import LossOutput


@dataclass(frozen=True)
class FixedWindows:
    """The first window of every held-out clip, at every level; the noise of a clip is one draw for all levels."""

    window: Chunked
    noise: Tensor
    values: tuple[float, ...]

    @classmethod
    def of(cls, window: Chunked, levels: int) -> FixedWindows:
        """Levels in the middle of equal parts of [0, 1]."""
        drawn = torch.randn(window.latents.shape, generator=torch.Generator().manual_seed(SEED))
        values = tuple((number + 0.5) / levels for number in range(levels))
        return cls(window, drawn.to(window.latents), values)

    def losses(self, objective: WorldModelObjective, window: Chunked) -> list[LossOutput]:
        """At each level; the draft of what is to come, the same at all levels, is made once."""
        count, shared = len(window.latents), Shared()
        levels = [torch.full((count, 1), value, device=window.latents.device) for value in self.values]
        return [objective.loss_at(window, level, self.noise, shared) for level in levels]

    @torch.no_grad()
    def loss(self, objective: WorldModelObjective) -> float:
        """The held-out loss alone, of a network in evaluation mode."""
        return mean_loss(self.losses(objective, self.window))

    @torch.no_grad()
    def numbers(self, objective: WorldModelObjective) -> dict[str, float]:
        """Held-out ``loss``, by level, ``explained``, and the loss with the actions of other clips and with none."""
        network: nn.Module = objective.world_model
        mode = network.training
        network.eval()
        found = self.losses(objective, self.window)
        wanted = velocity(self.window.latents, self.noise)[:, :, self.window.context :]
        power = per_sample(wanted.square()).mean()
        loss = mean_loss(found)
        numbers = {
            "loss": loss,
            "explained": 1.0 - loss / float(power),
            "loss_other_actions": mean_loss(self.losses(objective, other_actions(self.window))),
            "loss_no_actions": mean_loss(self.losses(objective, no_actions(self.window))),
        }
        numbers |= {f"loss_at_sigma_{v:.3f}": float(one.loss.mean()) for v, one in zip(self.values, found, strict=True)}
        numbers |= averaged_monitors(found)
        network.train(mode)
        return numbers


def averaged_monitors(outputs: list[LossOutput]) -> Mapping[str, float]:
    """Seed B's monitors over the levels."""
    names = [name for name in outputs[0].monitors if not name.startswith("sigma/")]
    return {name: float(torch.stack([one.monitors[name] for one in outputs]).mean()) for name in names}


def mean_loss(outputs: list[LossOutput]) -> float:
    """Over clips and levels."""
    return float(torch.stack([one.loss.mean() for one in outputs]).mean())


def other_actions(window: Chunked) -> Chunked:
    """Every clip with the actions of the one before it."""
    return replace(window, actions=window.actions.roll(1, 0))


def no_actions(window: Chunked) -> Chunked:
    """No key down, nothing moved."""
    return replace(window, actions=torch.zeros_like(window.actions))
