"""Autoencoders between video and latents: a small one of ours, and every pretrained one behind the same five words.

Video is [B, 3, T, H, W] in [-1, 1]. Latents are normalised per channel, so that over the training clips each has mean 0
and standard deviation 1:

    latents = (codes - latent_mean) / latent_std

T frames become 1 + (T - 1) / temporal_stride latent frames. In most autoencoders the first of them stands for the first
frame alone; in some it hears of the whole clip (:func:`require_lone_first_frame`).
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pipelines.models.pretrained_autoencoder import PretrainedVideoAutoencoder
from pipelines.models.stacked_autoencoder import KIND, StackedAutoencoder
from pipelines.models.trained_autoencoder import TrainedVideoAutoencoder
from pipelines.stage import StageError


class VideoAutoencoder(Protocol):
    """What the rest of the project knows of an autoencoder; both classes below are also ``nn.Module``."""

    temporal_stride: int
    spatial_stride: int
    latent_mean: Tensor
    latent_std: Tensor

    def encode(self, video: Tensor) -> Tensor:
        """Video [B, 3, T, H, W] to normalised latents [B, C, T', H', W']."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, T', H', W'] to video [B, 3, T, H, W], clamped to [-1, 1]."""
        ...

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` and safetensors."""
        ...


Autoencoder = StackedAutoencoder | PretrainedVideoAutoencoder
Trainable = StackedAutoencoder | TrainedVideoAutoencoder


def load_autoencoder(folder: Path) -> StackedAutoencoder | PretrainedVideoAutoencoder:
    """The autoencoder of a checkpoint folder, ready to encode and decode (frozen).

    Raises:
        StageError: the folder holds none.
    """
    kind = None
    with contextlib.suppress(OSError, ValueError, KeyError):
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["_class_name"]
    if kind is None:
        raise StageError(f"{folder}: holds no autoencoder (no config.json); run the stage autoencoder.")
    if kind == KIND:
        return StackedAutoencoder.from_pretrained(folder).eval().requires_grad_(False)
    return PretrainedVideoAutoencoder.from_pretrained(folder)


MOST_LEAK = 0.01
"""Share of the latents' spread by which the first latent frame may change with what follows the first frame."""


@torch.no_grad()
def first_frame_leak(autoencoder: VideoAutoencoder) -> float:
    """How far the first latent frame of a clip is from the first frame's own, over the latents' spread.

    Measured on one clip of noise, two latent frames after the first. 0: it stands for the first frame alone. Causal
    convolutions do not suffice: a group norm over time (HunyuanVideo, CogVideoX) tells every frame of all others.
    """
    frames, side = 1 + 2 * autoencoder.temporal_stride, 2 * autoencoder.spatial_stride
    unit = torch.rand(1, 3, frames, side, side, generator=torch.Generator().manual_seed(0))
    video = (2 * unit - 1).to(autoencoder.latent_mean.device)
    whole, alone = autoencoder.encode(video)[:, :, :1], autoencoder.encode(video[:, :, :1])
    return float((whole - alone).square().mean().sqrt() / whole.std())


def require_lone_first_frame(autoencoder: VideoAutoencoder, wanted_by: str) -> None:
    """Check that a picture's latents are the first latent frame of a clip that begins with it.

    Raises:
        StageError: they are not, so a flow that is given a picture would go on from latents that no clip has.
    """
    leak = first_frame_leak(autoencoder)
    if leak > MOST_LEAK:
        kind = type(getattr(autoencoder, "network", autoencoder)).__name__
        raise StageError(
            f"{wanted_by}: in {kind} the first latent frame hears of the frames after it (a picture's own latents "
            f"differ from it by {leak:.0%} of their spread), so a picture cannot stand for it. Wan's and LTX-Video's "
            "autoencoders keep it apart."
        )
