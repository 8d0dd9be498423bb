"""Queries and keys of an attention, and their norms, in fewer calls of torch where nothing is to be learnt.

A small network's rollout computes little and calls much: most of its time goes into asking torch, not into numbers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.models.fused import joined


def rms_normed(norm: Any, x: Tensor) -> Tensor:
    """As ``torch.nn.RMSNorm`` computes it over the last axis; without gradients in half of the calls and the time."""
    weight, eps = norm.weight, norm.eps
    if torch.is_grad_enabled() or x.dtype != torch.float32 or weight.dtype != torch.float32 or eps is None:
        return norm(x)
    return _shortened(x, weight * x.shape[-1] ** 0.5, eps)


def _shortened(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Times ``weight``, over the root of its sum of squares and of ``eps`` for each element of the last axis."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return (x * weight).div_(torch.hypot(length, _least(x.shape[-1] * eps, x.device)))


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _least(square: float, device: torch.device) -> Tensor:
    return torch.tensor(square**0.5, device=device)


class Pair:
    """Two normalisations of the last axis in one: of queries and keys that stand side by side, [..., 2, D].

    ``between``: axes between the two and the last one.
    """

    def __init__(self, of_query: Any, of_key: Any, between: int = 0) -> None:
        weight = torch.stack([of_query.weight, of_key.weight])
        self.weight = (weight * weight.shape[-1] ** 0.5).unflatten(0, (2, *[1] * between))
        self.eps = of_query.eps

    def __call__(self, both: Tensor) -> Tensor:
        return _shortened(both, self.weight, self.eps)


class Joined:
    """The layers of an attention that asks its own tokens, as one: for a rollout, which meets them again and again."""

    def __init__(self, attention: Any) -> None:
        self.weight, self.bias = joined(attention.to_q, attention.to_k, attention.to_v)
        self.heads, self.pair = attention.heads, Pair(attention.norm_q, attention.norm_k)

    @staticmethod
    def joins(attention: Any, x: Tensor) -> bool:
        """Whether they are plain layers in float32, with nothing to be learnt here."""
        layers, norms = (attention.to_q, attention.to_k, attention.to_v), (attention.norm_q, attention.norm_k)
        plain = all(type(one) is torch.nn.Linear for one in layers) and all(one.eps is not None for one in norms)
        still = torch.is_inference_mode_enabled() and not torch.is_autocast_enabled(x.device.type)
        return plain and still and x.dtype == layers[0].weight.dtype == torch.float32

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, S, D] to queries and keys [B, T, S, 2, heads, dim], and values [B, T, S, heads, dim]."""
        both, value = functional.linear(tokens, self.weight, self.bias).tensor_split([2 * tokens.shape[-1]], -1)
        both = self.pair(both.unflatten(-1, (2, -1)))
        return both.unflatten(-1, (self.heads, -1)), value.unflatten(-1, (self.heads, -1))
