"""What a generator reads of a folder of latents: batches, the held-out clips, the empty prompt, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.data.shards import Batches, Shards, collate
from pipelines.generation.params import DenoiserParams
from pipelines.params import Training
from pipelines.stage import StageError


class Latents:
    """A folder of latents as generators see it; ``classes`` maps every key to its pseudo-class where there are any."""

    def __init__(self, folder: Path, classes: Mapping[str, int] | None = None) -> None:
        self.folder, self.classes = folder, classes
        self.shards = Shards(folder)
        self.manifest = self.shards.manifest
        self.empty_prompt = torch.from_numpy(self.shards.empty_prompt)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(C, T, H, W) of every sample.

        Raises:
            StageError: it differs between samples.
        """
        field = self.manifest.fields["latents"]
        if None in field.shape or field.axes != "C T H W":
            raise StageError(
                f"{self.folder}: latents are {field.axes} {field.shape}; a generator needs C T H W of one shape."
            )
        channels, frames, height, width = (int(size or 0) for size in field.shape)
        return channels, frames, height, width

    def require(self, reads: Iterable[str], stage: str, denoiser: DenoiserParams) -> None:
        """Check fields, divisibility by the patch and the longest prompt before anything is built.

        Raises:
            StageError: naming what does not fit and what to change.
        """
        self.manifest.require([name for name in reads if name != "pseudo_class"], stage)
        for axis, size, side in zip("THW", self.shape[1:], denoiser.patch, strict=True):
            if size % side:
                raise StageError(
                    f"{self.folder}: axis {axis} of the latents has {size}, denoiser.patch cuts it by {side}."
                )
        lengths = [len(self.shards.read(row, ("prompt_embeds",))["prompt_embeds"]) for row in range(len(self.shards))]
        longest = max(lengths, default=0)
        if longest > denoiser.text_length:
            key = self.shards.index["key"].iloc[lengths.index(longest)]
            raise StageError(
                f"{self.folder}: the prompt of {key} has {longest} tokens, denoiser.text_length is "
                f"{denoiser.text_length}; raise it to {longest} or more."
            )

    def tokens(self, patch: tuple[int, int, int]) -> int:
        """Number of tokens a clip becomes."""
        _, frames, height, width = self.shape
        return (frames // patch[0]) * (height // patch[1]) * (width // patch[2])

    def batches(self, reads: Iterable[str], training: Training) -> Batches:
        """Training batches; ``pseudo_class`` among ``reads`` comes from the classes."""
        fields = [name for name in reads if name != "pseudo_class"]
        extra = {"pseudo_class": self.classes} if self.classes is not None else None
        return Batches(self.shards, "train", fields, training.batch_size, training.seed, extra)

    def held_out(self, count: int, device: torch.device | str = "cpu") -> dict[str, Any]:
        """The first ``count`` held-out clips as one batch, with their prompts."""
        rows = self.shards.rows("held_out")[:count]
        if not len(rows):
            raise StageError(f"{self.folder}: split held_out is empty; raise raw_video.held_out_share.")
        batch = collate([self.shards.read(int(row), ("latents", "prompt_embeds", "prompt")) for row in rows])
        if self.classes is not None:
            keys = self.shards.index["key"].to_numpy()[rows]
            batch["pseudo_class"] = torch.tensor([self.classes.get(key, -1) for key in keys])
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}

    def facts(self) -> dict[str, Any]:
        """What a checkpoint must remember of its latents: later readers compare it."""
        return {
            "shape": list(self.shape),
            "frame_rate": self.manifest.frame_rate,
            "autoencoder": self.manifest.autoencoder.model_dump(mode="json"),
            "text_encoder": self.manifest.text_encoder.model_dump(mode="json"),
        }
