"""What a level of noise makes of a video transformer: how its blocks and its output are scaled and shifted.

It depends on sigma alone, so a rollout, which meets the same levels in every chunk, computes it once for all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.models.backbones import TIMESTEPS


def embedded(embedder: Any, sigma: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Levels [B, T] as diffusers' time embedder has them: [B, T, D] for the output, [B, T, 6, D] for the blocks."""
    timestep = embedder.timesteps_proj((sigma.float() * TIMESTEPS).flatten()).unflatten(0, sigma.shape)
    whole = embedder.time_embedder(timestep.to(like))
    return whole, embedder.time_proj(embedder.act_fn(whole)).unflatten(2, (6, -1))


def of_block(block: Any, levels: Tensor) -> tuple[Tensor, ...]:
    """Shift, scale and gate of attention, then of the feed-forward layers, each [B, T, 1, D]; 1 is added to scales."""
    table = block.scale_shift_table[None] + levels.float()  # B T 6 D
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (part.squeeze(2)[:, :, None] for part in table.split(1, 2))
    return shift, 1 + scale, gate, ffn_shift, 1 + ffn_scale, ffn_gate


def of_output(transformer: Any, whole: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and scale of the output, each [B, T, 1, D]; 1 is added to the scale."""
    shift, scale = (transformer.scale_shift_table[None] + whole[:, :, None]).chunk(2, dim=2)
    return shift, 1 + scale


def scaled(norm: Any, tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalised tokens [B, T, S, D], scaled and shifted in float32; by the norm itself where all tokens share both."""
    if scale.numel() == tokens.shape[-1]:
        weight, bias = scale.flatten(), shift.flatten()
        return functional.layer_norm(tokens.float(), weight.shape, weight, bias, norm.eps).type_as(tokens)
    return torch.addcmul(shift, norm(tokens.float()), scale).type_as(tokens)


def gated(tokens: Tensor, change: Tensor, gate: Tensor) -> Tensor:
    """Tokens [B, T, S, D] and as much of a change of them as the gate lets through, in float32."""
    return torch.addcmul(tokens.float(), change.float(), gate).type_as(tokens)
