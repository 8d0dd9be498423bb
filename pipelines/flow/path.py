"""The one convention: sigma 0 is clean, sigma 1 is noise.

    x_sigma = (1 - sigma) x_0 + sigma eps        v = dx/dsigma = eps - x_0

Rectified flow, arXiv:2209.03003, Eq. 1, with time running from data to noise. ``x_0`` are ``latents`` and ``eps`` is
``noise``, both [B, C, T, H, W]; ``sigma`` is [B, T] (a level per frame) or [B, 1] (one per clip), in [0, 1], float32.
"""

from __future__ import annotations

from torch import Tensor


def over_frames(level: Tensor) -> Tensor:
    """[B, T] or [B, 1] as [B, 1, T or 1, 1, 1], to be multiplied with latents."""
    return level[:, None, :, None, None]


def noised(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The point x_sigma of the path."""
    level = over_frames(sigma)
    return (1.0 - level) * latents + level * noise


def velocity(latents: Tensor, noise: Tensor) -> Tensor:
    """dx/dsigma, the same at every sigma."""
    return noise - latents


def per_sample(error: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of ``error`` [B, ...] over everything but the batch: [B].

    ``weight`` (broadcastable, e.g. [1, 1, T, 1, 1]) makes it a weighted mean; all weights zero gives 0.
    """
    if weight is None:
        return error.flatten(1).mean(1)
    weight = weight.expand_as(error)
    return (error * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-12)
