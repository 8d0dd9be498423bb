"""A world model of a few channels, with random weights that all matter."""

from __future__ import annotations

import torch

from pipelines.models.denoiser import POSITION_CHANNELS
from pipelines.models.world_model import Inputs, WorldModel

CHANNELS, SIDE, ROWS = 3, 4, 4
KEYS, AXES = (0, 1, 2, 3), (4, 5)
SIZES = {"heads": 2, "head_dim": 12, "layers": 2, "feed_forward": 32, "patch": (1, 2, 2)}
ACTION = {"hidden": 4, "inner": 16, "heads": 2, "rotary": 4}


def inputs(sink: int = 1, window: int = 2, first_frame: str | None = "patches") -> Inputs:
    """What the tiny network takes."""
    draft = {"width": 8, "blocks": 1}
    return Inputs(CHANNELS, 1, POSITION_CHANNELS, first_frame, KEYS, AXES, ROWS, ACTION, sink, window, draft)


def world(seed: int = 0, **changes: object) -> WorldModel:
    """A network in which nothing is zero any more."""
    torch.manual_seed(seed)
    model = WorldModel.build(inputs(**changes), **SIZES)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3 if parameter.ndim > 1 else 0.1)
    return model.eval()


def given_clips(count: int, frames: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents [B, C, T, H, W] and actions [B, T, rows, A]."""
    random = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, CHANNELS, frames, SIDE, SIDE, generator=random)
    return latents, torch.rand(count, frames, ROWS, 6, generator=random).round()
