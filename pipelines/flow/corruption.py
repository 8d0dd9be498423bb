"""What is done to keyframes and to what lies between them before the refiner sees it (seed C, C.4)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pipelines.flow.keyframes import distance_share

KEYFRAME_SHARE = 0.25
"""Share of the noise that keyframes get under ``gauss``."""
GIVEN, TRUE, REPLACED = 1.0, 0.95, 0.5
"""Confidence of frames that are given for certain (endpoints, storyboards), of true keyframes, of stage 1's."""


def noised(
    clip: Tensor, mask: Tensor, noise: Tensor, sigma: float, kind: Literal["none", "gauss", "dist"], given: Tensor
) -> Tensor:
    """The filled clip [B, T, ...] with noise of deviation ``sigma`` in the missing frames.

    ``gauss``: everywhere alike, a quarter of it at keyframes. ``dist``: growing with the distance from keyframes, none
    at them. What is ``given`` for certain (bool [B, T]) is never touched.

    Raises:
        ValueError: another kind.
    """
    match kind:
        case "none":
            return clip
        case "gauss":
            share = torch.where(mask, KEYFRAME_SHARE, 1.0)
        case "dist":
            share = distance_share(mask)
        case _:
            raise ValueError(f"corruption {kind!r}: known are none, gauss and dist.")
    share = share.masked_fill(given, 0.0).to(clip)
    return clip + sigma * noise * share.view(*share.shape, *[1] * (clip.dim() - 2))


def replaced(clip: Tensor, other: Tensor, mask: Tensor, chosen: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Keyframes of ``other`` (stage 1's output) in place of the ``chosen`` ones [B, T, ...], and which they are [B, T].

    Given frames stay.
    """
    which = mask & chosen & ~given
    return torch.where(which.view(*which.shape, *[1] * (clip.dim() - 2)), other, clip), which


def confidence(mask: Tensor, which_replaced: Tensor, given: Tensor) -> Tensor:
    """[B, T]: 0 where a frame is missing, else how far it can be relied on."""
    found = torch.where(which_replaced, REPLACED, TRUE)
    return torch.where(mask, torch.where(given, GIVEN, found), 0.0)


def annealed(sure: Tensor, level: Tensor, levels: int, kind: Literal["linear", "cosine"]) -> Tensor:
    """c + (1 - c) lam [B, ...]: full confidence at level 0, c itself at level L; ``level`` [B]."""
    share = level.to(sure) / levels
    lam = 1.0 - share if kind == "linear" else 0.5 * (1.0 + torch.cos(math.pi * share))
    lam = lam.view(-1, *[1] * (sure.dim() - 1))
    return sure + (1.0 - sure) * lam
