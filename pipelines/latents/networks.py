"""The autoencoders that are trained here: made new, or loaded to go on from, with the batches that suit them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pipelines.latents.clips import Clips, FrameGroups
from pipelines.latents.params import Augmentation, DiffusersAutoencoderParams, Network
from pipelines.latents.windows import Windows
from pipelines.models.autoencoder import Trainable, load_autoencoder
from pipelines.models.halves import has_posterior
from pipelines.models.pretrained_autoencoder import PretrainedVideoAutoencoder
from pipelines.models.stacked_autoencoder import StackedAutoencoder
from pipelines.models.trained_autoencoder import TrainedVideoAutoencoder
from pipelines.params import ParamsError, Training
from pipelines.stage import StageError, write_json
from pipelines.training import checkpoint

WINDOWS = "windows.json"
"""Beside the weights of an autoencoder of diffusers that was trained here: ``frames`` of the windows it saw."""


def new_network(section: str, size: Network, posterior: bool) -> Trainable:
    """The network that a block describes.

    Args:
        posterior: whether a loss has a KL term.

    Raises:
        ParamsError: windows that do not fit its stride, or a KL term for a network without a posterior.
        StageError: there is no such autoencoder, or it cannot be used.
    """
    if not isinstance(size, DiffusersAutoencoderParams):
        return StackedAutoencoder(
            size.frames, size.patch, size.width, size.latent_channels, size.blocks, posterior, size.spade
        )
    if size.weights == "random":
        network = TrainedVideoAutoencoder.untrained(size.name, size.revision, size.subfolder)
    else:
        found = PretrainedVideoAutoencoder.from_pretrained(size.name, size.revision, size.subfolder)
        network = TrainedVideoAutoencoder(found.network)
    _take_windows(section, network, size.frames)
    require_posterior(section, network, posterior, size.name)
    return network


def _take_windows(section: str, network: TrainedVideoAutoencoder, frames: int) -> None:
    stride = network.temporal_stride
    if (frames - 1) % stride:
        fits = 1 + (frames - 1) // stride * stride
        raise ParamsError(
            f"{section}.network.frames: windows of {frames} frames, but this autoencoder takes 1 mod {stride}; "
            f"use {fits} or {fits + stride}."
        )
    network.frames = frames


def require_posterior(section: str, network: Trainable, wanted: bool, name: str) -> None:
    """Check that codes have a variance where a KL term is asked for.

    Raises:
        ParamsError: they have none.
    """
    if wanted and not has_posterior(network):
        raise ParamsError(f"{section}.losses.kl: {name} has no posterior, so there is nothing to pull; set kl: null.")


def trained_before(folder: Path) -> Trainable | None:
    """The autoencoder of a checkpoint, to go on from; None: a pretrained one that was taken as it was.

    Raises:
        StageError: no checkpoint, or one of something else.
    """
    checkpoint.read(folder)
    found = load_autoencoder(folder).train().requires_grad_(True)
    if isinstance(found, StackedAutoencoder):
        return found
    try:
        frames = json.loads((folder / WINDOWS).read_text(encoding="utf-8"))["frames"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StageError(f"{folder / WINDOWS}: cannot be read ({error}); `dvc checkout` restores it.") from None
    network = TrainedVideoAutoencoder(found.network)
    network.frames = frames
    return network


def write_windows(folder: Path, network: Trainable) -> None:
    """What :func:`trained_before` needs beside the weights."""
    if isinstance(network, TrainedVideoAutoencoder):
        write_json(folder / WINDOWS, {"frames": network.frames})


def batches(
    network: Trainable, clips: Clips, rows: Sequence[int], training: Training, augmentation: Augmentation | None
) -> FrameGroups:
    """Training batches of the clips, in the form that the network is called with."""
    order = (training.batch_size, training.seed, augmentation)
    if isinstance(network, StackedAutoencoder):
        return FrameGroups(clips, rows, network.frames, *order)
    return Windows(clips, rows, network.frames, network.temporal_stride, *order)
