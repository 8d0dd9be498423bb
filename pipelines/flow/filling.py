"""A clip from its keyframes, as a refiner is given it: filled in, and how sure each frame is.

Latents are [B, C, T, H, W], masks of given frames [B, T].
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

    Raises:
        StageError: a clip has no keyframe.
    """
    clip = latents.transpose(1, 2)
    if how.transport is None:
        return interpolate(clip, mask, how.mode).transpose(1, 2)
    return transported(clip, mask, Matching(**how.transport.model_dump())).transpose(1, 2)


def level_share(mask: Tensor, numbers: Sequence[int]) -> Tensor:
    """How sparse keyframes are, [B]: s / L with K_s keyframes, straight lines between; ``numbers`` are K_0 … K_L.

    For clips longer or shorter than K_0 frames, numbers grow with the clip.
    """
    counts = np.asarray(numbers[::-1], dtype=float) * mask.shape[1] / numbers[0]
    shares = np.linspace(1.0, 0.0, len(numbers))
    found = np.interp(mask.sum(1).cpu().numpy(), counts, shares)
    return torch.as_tensor(found, dtype=torch.float32, device=mask.device)


def over_frames(values: Tensor) -> Tensor:
    """[B, T] as [B, 1, T, 1, 1]."""
    return values[:, None, :, None, None]
