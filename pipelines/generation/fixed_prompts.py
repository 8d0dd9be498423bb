"""Samples of the same prompts and noise at every validation: what a run looks like while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.data import validation_clips
from pipelines.data.contract import require_autoencoder
from pipelines.generation.clip_maker import embed
from pipelines.generation.latents import Latents
from pipelines.generation.pictures import false_colour
from pipelines.generation.trained import Named, samples
from pipelines.generation.validation import CONDITIONS
from pipelines.models.autoencoder import load_autoencoder
from pipelines.stage import StageError
from pipelines.training.run import Run

REFERENCES = 6
"""Held-out clips whose main directions give the false colours."""
PIXELS = 8
"""Side of a latent element where latents are shown in false colour."""


class FixedPrompts:
    """Prompts in words, or so many held-out ones; noise seeds 0, 1, 2 …; decoded where an autoencoder is given.

    A prompt in words is told without a pseudo-class, as by ``reel generate``.

    Raises:
        StageError: it is not the autoencoder of these latents, or a prompt has no known word or too many.
    """

    def __init__(
        self, run: Run, data: Latents, wanted: int | tuple[str, ...], prompt_length: int, autoencoder: Path | None
    ) -> None:
        self.run, self.data = run, data
        self.prompts, self.conditions = _told(data, wanted, prompt_length)
        self.reference: Tensor = data.held_out(REFERENCES)["latents"]
        self.decoder = None
        if autoencoder is not None and self.prompts:
            require_autoencoder(data.manifest, autoencoder)
            self.decoder = load_autoencoder(autoencoder).to(run.device)

    def _frames(self, sampled: Tensor) -> np.ndarray:
        if self.decoder is None:
            colours = (false_colour(sampled, self.reference) * 255).round().astype(np.uint8)
            return colours.repeat(PIXELS, axis=2).repeat(PIXELS, axis=3)
        with torch.no_grad():
            parts = [self.decoder.decode(one.to(self.run.device)) for one in sampled.split(self.size)]
        video = torch.cat(parts).float().cpu().clamp(-1, 1)
        return ((video + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy()

    @property
    def size(self) -> int:
        """Clips at once, as in training."""
        return self.run.training.micro_batch

    def show(self, step: int, phases: Sequence[Named]) -> None:
        """Sample with the weights as they are and write the clips of this step; nothing without prompts.

        Every process samples (a network may be spread over them); the first writes.
        """
        if not self.prompts:
            return
        sampled = samples(self.data, phases, self.conditions, self.run.device, self.size)
        if self.run.is_main:
            rate = self.data.manifest.frame_rate
            if self.decoder is None:
                rate /= self.data.manifest.autoencoder.temporal_stride
            clips = list(self._frames(sampled))
            self.run.showed(step, validation_clips.write(self.run.shown, step, clips, self.prompts, rate))


def _told(data: Latents, wanted: int | tuple[str, ...], prompt_length: int) -> tuple[list[str], dict[str, Tensor]]:
    """The prompts, and the conditions that a denoiser is told for them."""
    if isinstance(wanted, int):
        batch: dict[str, Any] = data.held_out(wanted) if wanted else {"prompt": []}
        return batch["prompt"], {name: batch[name] for name in CONDITIONS if name in batch}
    embeds, mask = embed(wanted, data.folder)
    longest = int(mask.sum(1).max())
    if longest > prompt_length:
        raise StageError(
            f"validation.prompts: {wanted[int(mask.sum(1).argmax())]!r} has {longest} tokens, this denoiser takes "
            f"{prompt_length}; shorten the prompt, or raise denoiser.text_length."
        )
    return list(wanted), {"prompt_embeds": embeds, "prompt_mask": mask}
