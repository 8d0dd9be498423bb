"""Frames and pixels to latent frames and latent pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.stage import StageError


def latent_frames(num_frames: int, temporal_stride: int) -> int:
    """Latent frames of a clip: 1 + (T - 1) / stride.

    Raises:
        StageError: the number of frames does not fit.
    """
    if num_frames < 1 or (num_frames - 1) % temporal_stride:
        fits = max(0, num_frames - 1) // temporal_stride * temporal_stride + 1
        raise StageError(
            f"a clip has {num_frames} frames, but this autoencoder takes 1 mod {temporal_stride}; "
            f"cut clips of {fits} frames."
        )
    return 1 + (num_frames - 1) // temporal_stride


def check_geometry(video: Tensor, temporal_stride: int, spatial_stride: int) -> None:
    """Check that a video [B, 3, T, H, W] fits the strides.

    Raises:
        StageError: frames or pixels do not fit.
    """
    latent_frames(video.shape[2], temporal_stride)
    height, width = video.shape[3:]
    if height % spatial_stride or width % spatial_stride:
        raise StageError(
            f"clips are {height}x{width} pixels, but this autoencoder takes multiples of {spatial_stride}; "
            "change the clip size."
        )


def per_channel(values: Tensor) -> Tensor:
    """[C] to [C, 1, 1, 1], to be used with latents [B, C, T, H, W]."""
    return values[:, None, None, None]


def fold(groups: Tensor, side: int) -> Tensor:
    """Patches as channels, [N, C, H, W] to [N, C * side**2, H / side, W / side]: ``pixel_unshuffle``, laid out channels
    last, as convolutions want it, in one pass over memory."""
    cells = groups.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    patches = cells.permute(0, 2, 4, 1, 3, 5).flatten(3).permute(0, 3, 1, 2)
    return patches.contiguous(memory_format=torch.channels_last)  # patches of one pixel were not copied


def unfold(patches: Tensor, side: int) -> Tensor:
    """Inverse of :func:`fold`."""
    cells = patches.permute(0, 2, 3, 1).unflatten(3, (-1, side, side))
    return cells.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
