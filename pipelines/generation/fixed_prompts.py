"""Samples of the same held-out prompts and noise at every validation: what a run looks like while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipelines.data import validation_clips
from pipelines.data.contract import require_autoencoder
from pipelines.generation.latents import Latents
from pipelines.generation.pictures import false_colour
from pipelines.generation.trained import Named, preview
from pipelines.models.autoencoder import load_autoencoder
from pipelines.training.run import Run

PIXELS = 8
"""Side of a latent element where latents are shown in false colour."""


class FixedPrompts:
    """The first ``count`` held-out prompts, noise seeds 0, 1, 2 …; decoded where an autoencoder is given.

    Raises:
        StageError: it is not the autoencoder of these latents.
    """

    def __init__(self, run: Run, data: Latents, count: int, autoencoder: Path | None) -> None:
        self.run, self.data, self.count = run, data, count
        self.decoder = None
        if autoencoder is not None and count:
            require_autoencoder(data.manifest, autoencoder)
            self.decoder = load_autoencoder(autoencoder).to(run.device)

    def _frames(self, sampled: Tensor, true: Tensor) -> np.ndarray:
        if self.decoder is None:
            colours = (false_colour(sampled, true) * 255).round().astype(np.uint8)
            return colours.repeat(PIXELS, axis=2).repeat(PIXELS, axis=3)
        with torch.no_grad():
            video = self.decoder.decode(sampled.to(self.run.device)).float().cpu().clamp(-1, 1)
        return ((video + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy()

    def show(self, step: int, phases: Sequence[Named]) -> None:
        """Sample with the weights as they are and write the clips of this step; nothing without prompts.

        Every process samples (a network may be spread over them); the first writes.
        """
        if not self.count:
            return
        true, sampled, prompts = preview(self.data, phases, self.run.device, self.count)
        if self.run.is_main:
            rate = self.data.manifest.frame_rate
            if self.decoder is None:
                rate /= self.data.manifest.autoencoder.temporal_stride
            clips = list(self._frames(sampled, true))
            self.run.showed(step, validation_clips.write(self.run.shown, step, clips, prompts, rate))
