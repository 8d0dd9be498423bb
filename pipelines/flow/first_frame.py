"""Going on from a given first frame: it stands clean, at sigma 0, beside frames that are still noise.

Wan 2.2's 5B network and LTX-Video are conditioned on an image in this way, so one mechanism serves them and networks
trained from scratch: a level per latent frame, the first of them 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def levels(sigma: Tensor, frames: int, given: Tensor) -> Tensor:
    """[B, frames]: ``sigma`` [B, 1] for every frame, and 0 for the first one of the samples in ``given`` (bool [B])."""
    spread = sigma.expand(-1, frames).clone()
    spread[given, 0] = 0.0
    return spread


def counted(frames: int, given: Tensor) -> Tensor:
    """Weight [B, 1, frames, 1, 1] of each frame's error: 0 for what was given, 1 for the rest."""
    weight = torch.ones(len(given), frames, device=given.device)
    weight[given, 0] = 0.0
    return weight[:, None, :, None, None]


def placed(x: Tensor, first: Tensor) -> Tensor:
    """``x`` [B, C, T, H, W] with ``first`` [B, C, 1, H, W] as its first frame."""
    return torch.cat([first.to(x), x[:, :, 1:]], dim=2)


def kept(field: Callable[[Tensor, Tensor], Tensor], first: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The field that sees ``first`` in the first frame, at sigma 0, and does not move it."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        everyone = torch.ones(len(x), dtype=torch.bool, device=x.device)
        velocity = field(placed(x, first), levels(sigma, x.shape[2], everyone))
        return placed(velocity, torch.zeros_like(first))

    return denoise
