"""What a generator reads of a folder of latents: batches, the held-out clips, the empty prompt, and whether it fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.data.batches import Batches, by_form, collate
from pipelines.data.contract import PROMPT_TOKENS
from pipelines.data.prompt_classes import classes_by_prompt
from pipelines.data.shards import Shards
from pipelines.generation.params import Denoiser, DenoiserParams, PretrainedDenoiserParams
from pipelines.models.pretrained_denoiser import Given, Origin, check_fits
from pipelines.params import Training
from pipelines.stage import StageError, say

TokenCount = Callable[[Tensor], int]
"""Latents [B, C, T, H, W] to the number of tokens that each clip becomes."""


def token_counter(patch: tuple[int, int, int]) -> TokenCount:
    """The count for patches of so many latent frames, rows and columns."""

    def count(latents: Tensor) -> int:
        return math.prod(max(1, size // side) for size, side in zip(latents.shape[2:], patch, strict=True))

    return count


class Latents:
    """A folder of latents as generators see it; ``classes`` maps every key to its pseudo-class where there are any.

    ``shards``: how it is read, where that is otherwise than by clip.
    """

    def __init__(self, folder: Path, classes: Mapping[str, int] | None = None, shards: Shards | None = None) -> None:
        self.folder, self.classes = folder, classes
        self.shards = Shards(folder) if shards is None else shards
        self.manifest = self.shards.manifest
        self.forms = by_form(self.shards, np.arange(len(self.shards)))
        self.empty_prompt = torch.from_numpy(self.shards.empty_prompt)

    @cached_property
    def shapes(self) -> dict[tuple[int, int, int, int], int]:
        """(C, T, H, W) of the samples and how many have it, the most frequent first.

        Raises:
            StageError: latents have other axes, or a number of channels that differs.
        """
        field, strides = self.manifest.fields["latents"], self.manifest.autoencoder
        if field.axes != "C T H W" or field.shape[0] is None:
            raise StageError(
                f"{self.folder}: latents are {field.axes} {field.shape}; a generator needs C T H W of one number C."
            )
        found: dict[tuple[int, int, int, int], int] = {}
        for form, rows in self.forms.items():
            shape = tuple(int(size or 0) for size in field.shape)
            if form:
                frames, height, width = form
                side = strides.spatial_stride
                shape = (shape[0], 1 + (frames - 1) // strides.temporal_stride, height // side, width // side)
            found[shape] = len(rows)  # type: ignore[index]
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(C, T, H, W) that most samples have: what is measured, sampled and shown."""
        return next(iter(self.shapes))

    def require(self, reads: Iterable[str], stage: str, denoiser: Denoiser) -> None:
        """Check fields, a pretrained denoiser's channels, the patch and the longest prompt before anything is built.

        Raises:
            StageError: naming what does not fit and what to change.
        """
        self.manifest.require([name for name in reads if name != "pseudo_class"], stage)
        patch = denoiser.patch if isinstance(denoiser, DenoiserParams) else self._fitting_patch(denoiser)
        for shape in self.shapes:
            for axis, size, side in zip("THW", shape[1:], patch, strict=True):
                if size % side:
                    raise StageError(
                        f"{self.folder}: axis {axis} of the latents has {size}, denoiser.patch cuts it by {side}."
                    )
        if len(self.shapes) > 1:
            shown = ", ".join(f"{number} of {list(shape)}" for shape, number in self.shapes.items())
            say(f"latents of {len(self.shapes)} shapes ({shown}): each batch has one; the first is measured and shown")
        lengths = self._prompt_lengths()
        longest, beside = max(lengths, default=0), int("pseudo_class" in reads)
        if longest + beside > denoiser.text_length:
            key = self.shards.index["key"].iloc[lengths.index(longest)]
            raise StageError(
                f"{self.folder}: the prompt of {key} has {longest} tokens, denoiser.text_length is "
                f"{denoiser.text_length}{', one of them for the class' if beside else ''}; raise it to "
                f"{longest + beside} or more."
            )

    def _prompt_lengths(self) -> list[int]:
        """Tokens of every prompt: from the index, or from the embeddings of data whose index does not say."""
        if PROMPT_TOKENS in self.shards.index.columns:
            return self.shards.index[PROMPT_TOKENS].tolist()
        return [len(self.shards.read(row, ("prompt_embeds",))["prompt_embeds"]) for row in range(len(self.shards))]

    def _fitting_patch(self, denoiser: PretrainedDenoiserParams) -> tuple[int, int, int]:
        """Patch of a pretrained denoiser that was made for latents and prompts like these."""
        origin = Origin(**denoiser.pretrained.model_dump())
        layout = origin.layout()
        facts = self.manifest.autoencoder
        dim = self.manifest.text_encoder.dim
        given = Given(self.folder, self.shape[0], dim, facts.id, facts.latent_mean, facts.latent_std)
        check_fits(origin, layout, given)
        return layout.patch

    @property
    def extent(self) -> tuple[float, float]:
        """Seconds and pixels that one latent element covers."""
        facts = self.manifest.autoencoder
        return facts.temporal_stride / self.manifest.frame_rate, float(facts.spatial_stride)

    def batches(self, reads: Iterable[str], training: Training, class_balance: float = 0.0) -> Batches:
        """Training batches; ``pseudo_class`` among ``reads`` comes from the classes."""
        fields = [name for name in reads if name != "pseudo_class"]
        return Batches(self.shards, "train", fields, training.batch_size, training.seed, self.classes, class_balance)

    def held_out(self, count: int, device: torch.device | str = "cpu") -> dict[str, Any]:
        """The first ``count`` validation clips of the most frequent shape as one batch, with their prompts.

        Their pseudo-classes are those of their prompts, as when a clip is asked for, not their own.

        Raises:
            StageError: there is none.
        """
        most = max(self.forms.values(), key=len)
        held_out = self.shards.rows("validation")
        rows = held_out[np.isin(held_out, most)][:count]
        if not len(rows):
            raise StageError(
                f"{self.folder}: split validation has no clip of the most frequent shape {list(self.shape)}; raise "
                "raw_video.splits.validation."
            )
        batch = collate(self.shards.read_many(rows.tolist(), ("latents", "prompt_embeds", "prompt")))
        if self.classes is not None:
            batch["pseudo_class"] = classes_by_prompt(self.shards, self.classes, rows.tolist())
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}

    def evenly(self, split: str, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Latents [N, C, T, H, W] of up to ``count`` evenly spaced clips of a split, of the most frequent shape."""
        rows = self.shards.rows(split)
        rows = rows[np.isin(rows, max(self.forms.values(), key=len))]
        rows = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]
        return collate(self.shards.read_many(rows.tolist(), ("latents",)))["latents"].to(device)

    def facts(self) -> dict[str, Any]:
        """What a checkpoint must remember of its latents: later readers compare it."""
        return {
            "shape": list(self.shape),
            "frame_rate": self.manifest.frame_rate,
            "autoencoder": self.manifest.autoencoder.model_dump(mode="json"),
            "text_encoder": self.manifest.text_encoder.model_dump(mode="json"),
        }
