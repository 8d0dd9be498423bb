"""Latents to clips. Pixels are what an evaluation has most of, so few sets of clips are decoded at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines import stage
from pipelines.evaluation.judge import Clips
from pipelines.evaluation.video_metrics import bytes_of, values
from pipelines.models.autoencoder import load_autoencoder
from pipelines.models.streaming import decoded_in_pieces

AT_ONCE = 32
"""Clips that are decoded, or encoded, together."""


class ClipDecoder:
    """Latents to clips by the autoencoder that made them."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.autoencoder: Any = load_autoencoder(folder)
        self.device = device
        self.autoencoder.to(device)

    @torch.no_grad()
    def _parts(self, latents: Tensor, what: str) -> Iterator[Tensor]:
        """Video [n, 3, T, H, W] of some clips after the other."""
        done = 0
        for part in latents.split(AT_ONCE):
            pieces = decoded_in_pieces(self.autoencoder, part.to(self.device))
            yield torch.cat([piece.float().cpu() for piece in pieces], dim=2)
            done += len(part)
            stage.report(done, len(latents), f"{what} decoded")

    def __call__(self, latents: Tensor, what: str) -> Clips:
        """Latents [N, C, T', H', W'] with their video as a file holds it, uint8."""
        return Clips(latents, _joined(len(latents), map(bytes_of, self._parts(latents, what))))

    def video(self, latents: Tensor, what: str) -> Tensor:
        """Their video [N, 3, T, H, W] in [-1, 1], not rounded to bytes."""
        return _joined(len(latents), self._parts(latents, what))

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Latents of video [N, 3, T, H, W]."""
        parts = (values(part).to(self.device) for part in video.split(AT_ONCE))
        return torch.cat([self.autoencoder.encode(part).float().cpu() for part in parts])


def _joined(count: int, parts: Iterator[Tensor]) -> Tensor:
    """Parts of ``count`` clips put into one tensor as they come: joined at the end, they would be there twice."""
    done, whole = 0, torch.empty(0)
    for part in parts:
        if not done:
            whole = torch.empty(count, *part.shape[1:], dtype=part.dtype)
        whole[done : done + len(part)] = part
        done += len(part)
    return whole
