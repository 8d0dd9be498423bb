"""Samplers: pure functions that integrate dx/dsigma = v(x, sigma) along a descending list of levels.

``denoise(x, sigma)`` returns the velocity [B, C, T, H, W] at ``sigma`` [B, 1]; ``sigmas`` is [N + 1]. Where the list
ends at 0 the result is latents. Nothing here remembers a step index.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

Denoise: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Sampler: TypeAlias = Callable[[Denoise, Tensor, Tensor], Tensor]


def _at(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.to(x.device).expand(len(x), 1)


def euler(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """First order: one evaluation a step; exact on straight paths in any number of steps."""
    for sigma, following in pairwise(sigmas):
        x = x + (following - sigma) * denoise(x, _at(sigma, x))
    return x


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """Second order: mean of the slopes at both ends; two evaluations a step.

    diffusers' Heun scheduler makes its last step a first-order one; seed B's guide does not, and neither does this.
    """
    for sigma, following in pairwise(sigmas):
        step = following - sigma
        slope = denoise(x, _at(sigma, x))
        ahead = denoise(x + step * slope, _at(following, x))
        x = x + 0.5 * step * (slope + ahead)
    return x


def midpoint(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """Second order: the slope in the middle; two evaluations a step."""
    for sigma, following in pairwise(sigmas):
        step = following - sigma
        middle = x + 0.5 * step * denoise(x, _at(sigma, x))
        x = x + step * denoise(middle, _at(sigma + 0.5 * step, x))
    return x


def dpm_2m(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """DPM-Solver++(2M), arXiv:2211.01095, on our path: second order with one evaluation a step.

    In lambda = log((1 - sigma) / sigma) the exact solution is
    x' = (sigma' / sigma) x - (1 - sigma') (exp(-h) - 1) D, where D extrapolates the clean estimate from the last two.
    The first step (from pure noise) and the last (to 0) are first order.
    """
    last: Tensor | None = None
    last_step = torch.tensor(torch.inf)
    for sigma, following in pairwise(sigmas):
        clean = x - sigma * denoise(x, _at(sigma, x))
        step = _log_signal(following) - _log_signal(sigma)
        estimate = clean
        if last is not None and torch.isfinite(last_step) and torch.isfinite(step):
            estimate = clean + 0.5 * (step / last_step) * (clean - last)
        x = following / sigma * x - (1.0 - following) * torch.expm1(-step) * estimate
        last, last_step = clean, step
    return x


def _log_signal(sigma: Tensor) -> Tensor:
    return torch.log1p(-sigma) - torch.log(sigma)


SAMPLERS: dict[str, Sampler] = {"euler": euler, "heun": heun, "midpoint": midpoint, "dpm_2m": dpm_2m}
"""By the name that params state. A literal, checked by the params class: not a registry to add to from elsewhere."""
