"""A clip from its keyframes, as a refiner is given it: filled in, and how sure each frame is.

Latents are [B, C, T, H, W], masks of given frames [B, T]; those of given places of pictures (:mod:`patches`) are
[B, T, H, W].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipelines.flow.interpolation import interpolate
from pipelines.flow.params import Filling
from pipelines.flow.warp import Matching, transported


def fill(latents: Tensor, mask: Tensor, how: Filling) -> Tensor:
    """The clip with its missing frames filled in; what stood at them is not looked at, what is given stays.

    ``learned`` begins here as straight lines; what a refiner has learned it adds itself.

    Raises:
        StageError: a clip has no keyframe.
    """
    clip = latents.transpose(1, 2)
    with torch.autocast(latents.device.type, enabled=False):
        if how.transport is None:
            mode = "linear" if how.mode == "learned" else how.mode
            return interpolate(clip, mask, mode).transpose(1, 2)
        return transported(clip, mask, Matching(**how.transport.model_dump())).transpose(1, 2)


def level_share(mask: Tensor, numbers: Sequence[int]) -> Tensor:
    """How sparse what is given is, [B]: s / L with K_s frames (or places), straight lines between.

    ``numbers`` are K_0 … K_L. For clips longer or shorter than K_0 frames, numbers grow with the clip.
    """
    counts = np.asarray(numbers[::-1], dtype=float) / numbers[0]
    shares = np.linspace(1.0, 0.0, len(numbers))
    found = np.interp(mask.flatten(1).double().mean(1).cpu().numpy(), counts, shares)
    return torch.as_tensor(found, dtype=torch.float32, device=mask.device)


def over_elements(values: Tensor) -> Tensor:
    """[B, T] as [B, 1, T, 1, 1], [B, T, H, W] as [B, 1, T, H, W]."""
    return values[:, None, :, None, None] if values.dim() == 2 else values[:, None]


def alike(each: Tensor, mask: Tensor) -> Tensor:
    """Numbers [B] of samples in the shape of their masks: [B, 1] or [B, 1, 1, 1]."""
    return each.view(-1, *[1] * (mask.dim() - 1))


def by_place(latents: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Latents by what their mask is of: [B, T, C, H, W] and [B, T], or [B, T H W, C] and [B, T H W]."""
    if mask.dim() == 2:
        return latents.transpose(1, 2), mask
    return latents.flatten(2).mT, mask.flatten(1)
