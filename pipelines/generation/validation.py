"""Held-out loss at fixed sigmas and noise: the same question at every step, so that a curve is a curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.flow.path import per_sample

Field = Callable[..., Tensor]
"""(x, sigma, **conditions) -> velocity."""
CONDITIONS = ("prompt_embeds", "prompt_mask", "pseudo_class")
SEED = 20220907


def agreement(predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Seed B's monitors: mean absolute velocities, and the mean over samples of the cosine of the flattened two."""
    cosine = torch.nn.functional.cosine_similarity(predicted.flatten(1).float(), target.flatten(1).float(), dim=1)
    return {
        "velocity_cos_sim": cosine.mean().detach(),
        "pred_velocity_mag": predicted.abs().mean().detach(),
        "target_velocity_mag": target.abs().mean().detach(),
    }


@dataclass(frozen=True)
class FixedLevels:
    """Every held-out clip at every level: tensors of ``levels`` times ``clips`` samples, level by level.

    Attributes:
        latents, noise: [levels * clips, C, T, H, W]; the noise of a clip is one draw for all levels.
        unit_noise: [levels * clips, C, 1, H, W], for anchors.
        sigma: [levels * clips, 1].
        conditions: the denoiser's other arguments.
        values: the levels, rising.
        micro_batch: samples per forward, as in training.
    """

    latents: Tensor
    noise: Tensor
    unit_noise: Tensor
    sigma: Tensor
    conditions: Mapping[str, Tensor]
    values: tuple[float, ...]
    micro_batch: int

    @classmethod
    def of(cls, batch: Mapping[str, Any], levels: int, within: tuple[float, float], micro_batch: int) -> FixedLevels:
        """``levels`` sigmas in the middle of equal parts of the range ``within``."""
        latents: Tensor = batch["latents"]
        generator = torch.Generator().manual_seed(SEED)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        unit_noise = torch.randn(latents[:, :, :1].shape, generator=generator).to(latents)
        low, high = within
        values = tuple(low + (high - low) * (index + 0.5) / levels for index in range(levels))

        def repeated(tensor: Tensor) -> Tensor:
            return tensor.repeat(levels, *[1] * (tensor.ndim - 1))

        sigma = torch.tensor(values, device=latents.device).repeat_interleave(len(latents))[:, None]
        conditions = {name: repeated(batch[name]) for name in CONDITIONS if name in batch}
        return cls(repeated(latents), repeated(noise), repeated(unit_noise), sigma, conditions, values, micro_batch)

    @property
    def num_clips(self) -> int:
        """Held-out clips, each of which stands once at every level."""
        return len(self.latents) // len(self.values)

    @torch.no_grad()
    def predict(self, denoiser: nn.Module, x: Tensor, field: Field | None = None) -> Tensor:
        """The velocity at ``x``, in micro-batches, in evaluation mode; ``field`` asks the denoiser in its own way."""
        mode = denoiser.training
        denoiser.eval()
        parts = []
        for start in range(0, len(x), self.micro_batch):
            part = slice(start, start + self.micro_batch)
            conditions = {name: value[part] for name, value in self.conditions.items()}
            parts.append((field or denoiser)(x[part], self.sigma[part], **conditions))
        denoiser.train(mode)
        return torch.cat(parts).float()

    def by_level(self, per_clip: Tensor) -> Tensor:
        """[levels * clips] as means [levels]."""
        return per_clip.unflatten(0, (len(self.values), -1)).mean(1)

    def numbers(self, error: Tensor, predicted: Tensor, target: Tensor) -> dict[str, float]:
        """``loss`` (mean over levels), the loss at each level, and seed B's monitors; ``loss`` 1 means "predicts 0".

        ``explained`` is 1 - error / mean squared target: comparable between paths whose velocities differ in size.
        """
        found = {
            f"loss_at_sigma_{value:.3f}": float(loss)
            for value, loss in zip(self.values, self.by_level(error), strict=True)
        }
        found |= {name: float(value) for name, value in agreement(predicted, target).items()}
        power = per_sample(target.square()).mean()
        return {"loss": float(error.mean()), "explained": float(1.0 - error.mean() / power), **found}
