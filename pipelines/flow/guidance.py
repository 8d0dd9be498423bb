"""Classifier-free guidance (arXiv:2207.12598), its rescaling (arXiv:2305.08891) and the dropout that allows it."""

from __future__ import annotations

import torch
from torch import Tensor


def guided(conditional: Tensor, unconditional: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """u + scale (c - u): 1 is the conditional velocity; ``rescale`` > 0 pulls its spread towards that of c."""
    velocity = unconditional + scale * (conditional - unconditional)
    return rescaled(velocity, conditional, rescale) if rescale else velocity


def rescaled(velocity: Tensor, conditional: Tensor, share: float) -> Tensor:
    """(1 - share) v + share v std(c) / std(v), standard deviations per sample (arXiv:2305.08891, Eq. 15-16)."""
    dims = list(range(1, velocity.ndim))
    factor = conditional.std(dims, keepdim=True) / velocity.std(dims, keepdim=True)
    return (1.0 - share + share * factor) * velocity


def dropped(count: int, probability: float, device: torch.device | None = None) -> Tensor:
    """Which samples of a batch lose a condition: bool [count], independent per sample."""
    return torch.rand(count, device=device) < probability


def padded(prompt_embeds: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """One prompt [L, D] as [length, D] with zeros, and its mask [length]; cut where it is longer."""
    kept = prompt_embeds[:length]
    embeds = kept.new_zeros(length, kept.shape[1])
    embeds[: len(kept)] = kept
    return embeds, torch.arange(length, device=kept.device) < len(kept)


def drop_prompts(
    prompt_embeds: Tensor, prompt_mask: Tensor, empty_prompt: Tensor, drop: Tensor
) -> tuple[Tensor, Tensor]:
    """Put the empty prompt [L0, D] in place of the prompts of the samples in ``drop`` [B]; the others are untouched.

    Takes and returns prompt_embeds [B, L, D] and prompt_mask [B, L].
    """
    embeds, mask = padded(empty_prompt.to(prompt_embeds), prompt_embeds.shape[1])
    return torch.where(drop[:, None, None], embeds, prompt_embeds), torch.where(drop[:, None], mask, prompt_mask)
