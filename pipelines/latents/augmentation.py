"""Random changes of the pixels that an autoencoder trains on: a function of (seed, step, place in the batch) alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipelines.latents.params import Augmentation, ColorJitter

MARK = 0x617567
"""Keeps the numbers drawn here apart from those of the order of samples."""
GREY = (0.299, 0.587, 0.114)
"""Luma of red, green and blue (ITU-R BT.601)."""


@dataclass(frozen=True)
class DrawnChange:
    """What is drawn for one sample.

    Attributes:
        start: frames to leave out at the clip's start.
        box: top, left, height and width of what is shown, as shares of the picture.
        brightness, contrast, saturation: factors; 1 changes nothing.
    """

    start: int = 0
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0


def drawn(params: Augmentation, place: tuple[int, int, int], most_start: int) -> DrawnChange:
    """The change of one sample.

    Args:
        place: (seed, step, place in the global batch).
        most_start: frames that the clip can spare at its start.
    """
    generator = np.random.default_rng([*place, MARK])
    late, side, top, left, *factors = generator.random(7).tolist()  # all, whichever blocks there are
    start, box = 0, DrawnChange.box
    if params.temporal_crop is not None:
        start = int(late * (1 + min(params.temporal_crop.max_start, most_start)))
    if params.spatial_crop is not None:
        share = params.spatial_crop.min_share + side * (1.0 - params.spatial_crop.min_share)
        box = (top * (1.0 - share), left * (1.0 - share), share, share)
    jitter = params.color_jitter or ColorJitter(brightness=0.0, contrast=0.0, saturation=0.0)
    most = (jitter.brightness, jitter.contrast, jitter.saturation)
    return DrawnChange(
        start, box, *(1.0 + (2.0 * unit - 1.0) * reach for unit, reach in zip(factors, most, strict=True))
    )


def changed(video: Tensor, change: DrawnChange) -> Tensor:
    """The same frames [3, T, H, W] in [-1, 1], cropped, resized to their size and coloured as ``change`` says."""
    return coloured(cropped(video, change.box), change)


def cropped(video: Tensor, box: tuple[float, float, float, float]) -> Tensor:
    """The part of the picture in ``box``, in whole pixels, resized to the whole (bicubic, clamped to [-1, 1])."""
    height, width = video.shape[-2:]
    top, left = round(box[0] * height), round(box[1] * width)
    rows, columns = max(1, round(box[2] * height)), max(1, round(box[3] * width))
    if (rows, columns) == (height, width):
        return video
    top, left = min(top, height - rows), min(left, width - columns)
    part = video[..., top : top + rows, left : left + columns].transpose(0, 1)
    whole = functional.interpolate(part, (height, width), mode="bicubic", align_corners=False)
    return whole.transpose(0, 1).clamp(-1.0, 1.0)


def coloured(video: Tensor, change: DrawnChange) -> Tensor:
    """Brightness, contrast and saturation, in this order, on values in [0, 1]; the result is clamped to [-1, 1]."""
    if (change.brightness, change.contrast, change.saturation) == (1.0, 1.0, 1.0):
        return video
    light = (video + 1.0) / 2.0 * change.brightness
    weights = torch.tensor(GREY).view(3, 1, 1, 1)
    mean = (light * weights).sum(0).mean()
    light = mean + (light - mean) * change.contrast
    grey = (light * weights).sum(0, keepdim=True)
    return ((grey + (light - grey) * change.saturation) * 2.0 - 1.0).clamp(-1.0, 1.0)
