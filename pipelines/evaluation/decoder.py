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
from pipelines.models.autoencoder import Autoencoder, load_autoencoder
from pipelines.models.forwards import Forwards
from pipelines.models.streaming import decoded_in_pieces
from pipelines.training.precision import computing

AT_ONCE = 32
"""Clips that are decoded, or encoded, together."""


class ClipDecoder:
    """Latents to clips by the autoencoder that made them, in ``precision``: fp32 or bf16."""

    def __init__(self, folder: Path, device: torch.device, precision: str = "fp32") -> None:
        self.autoencoder: Any = load_autoencoder(folder)
        self.device, self.precision = device, precision
        self.autoencoder.to(device)
        self._decodings = Forwards(self._decoded, self.autoencoder, device)

    @torch.no_grad()
    def _decoded(self, autoencoder: Autoencoder, latents: Tensor) -> Tensor:
        """Video [n, 3, T, H, W] of some clips, on the host."""
        with computing(self.precision, self.device):
            pieces = decoded_in_pieces(autoencoder, latents.to(self.device))
            return torch.cat([piece.float().cpu() for piece in pieces], dim=2)

    def _parts(self, latents: Tensor, what: str) -> Iterator[Tensor]:
        """Video [n, 3, T, H, W] of some clips after the other."""
        rows = torch.arange(len(latents)).split(AT_ONCE)
        for part, video in self._decodings.of((some.tolist(), latents[some]) for some in rows):
            yield video
            stage.report(part[-1] + 1, len(latents), f"{what} decoded")

    def __call__(self, latents: Tensor, what: str, copies: int = 1) -> Clips:
        """Latents [N, C, T', H', W'] with their video as a file holds it, uint8.

        ``copies``: samples of each prompt, all prompts of the first copy first. Where they are all one clip (a real
        one, the interpolation between given frames) it is decoded once.
        """
        once = latents[: len(latents) // copies]
        alike = all(torch.equal(once, other) for other in latents[len(once) :].split(len(once)))
        parts = self._parts(once if alike else latents, what)
        video = _joined(len(once) if alike else len(latents), map(bytes_of, parts))
        return Clips(latents, video.repeat(copies, 1, 1, 1, 1) if alike and copies > 1 else video)

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
