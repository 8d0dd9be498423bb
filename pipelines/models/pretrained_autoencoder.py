"""Pretrained autoencoders of diffusers behind the words of :mod:`pipelines.models.autoencoder`."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor, nn

from pipelines.models import hub
from pipelines.models.geometry import check_geometry, per_channel
from pipelines.stage import StageError

PRETRAINED = {
    "AutoencoderKLWan": "autoencoder_kl_wan",
    "AutoencoderKLLTXVideo": "autoencoder_kl_ltx",
    "AutoencoderKL": "autoencoder_kl",
}
"""Classes of diffusers that are understood, and their modules. The last one encodes each frame for itself."""


class PretrainedVideoAutoencoder(nn.Module):
    """A video or image autoencoder of diffusers, with the normalisation that its own config states.

    Args:
        network: an instance of a class of :data:`PRETRAINED`. The posterior's mode is taken.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.per_frame = type(network).__name__ == "AutoencoderKL"
        self.temporal_stride, self.spatial_stride = _strides(network)
        mean, std = _normalisation(network)
        self.latent_mean: Tensor
        self.latent_std: Tensor
        self.register_buffer("latent_mean", mean)
        self.register_buffer("latent_std", std)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, revision: str | None = None, subfolder: str | None = None
    ) -> PretrainedVideoAutoencoder:
        """Load by folder or by name on the model hub.

        Raises:
            StageError: it cannot be found or read, or is of a class that is not understood.
        """
        where: dict[str, Any] = {"revision": revision, "subfolder": subfolder or ""}
        try:
            with warnings.catch_warnings():  # diffusers passes the hub an argument that it no longer takes
                warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks")
                config: Any = AutoencoderTiny.load_config(str(name), **where)
                network = _class(str(name), config["_class_name"]).from_pretrained(str(name), **where)
        except StageError:
            raise
        except (OSError, ValueError, KeyError) as error:
            raise hub.unreadable("autoencoder", str(name), revision, subfolder, error) from None
        return cls(network)

    def encode(self, video: Tensor) -> Tensor:
        """Video [B, 3, T, H, W] to normalised latents [B, C, T', H', W'].

        Raises:
            StageError: frames or pixels do not fit the strides.
        """
        check_geometry(video, self.temporal_stride, self.spatial_stride)
        with torch.no_grad():
            if self.per_frame:
                flat = self.network.encode(video.transpose(1, 2).flatten(0, 1)).latent_dist.mode()
                codes = flat.unflatten(0, (len(video), -1)).transpose(1, 2)
            else:
                codes = self.network.encode(video).latent_dist.mode()
        return (codes - per_channel(self.latent_mean)) / per_channel(self.latent_std)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, T', H', W'] to video [B, 3, T, H, W], clamped to [-1, 1]."""
        codes = latents * per_channel(self.latent_std) + per_channel(self.latent_mean)
        if self.per_frame:
            flat = self.network.decode(codes.transpose(1, 2).flatten(0, 1)).sample
            return flat.unflatten(0, (len(codes), -1)).transpose(1, 2).clamp(-1, 1)
        conditioned = bool(self.network.config.get("timestep_conditioning"))
        extra = (torch.zeros(len(codes), device=codes.device, dtype=codes.dtype),) if conditioned else ()
        return self.network.decode(codes, *extra).sample.clamp(-1, 1)

    def save_pretrained(self, folder: Path) -> None:
        """The network's own files."""
        self.network.save_pretrained(folder)


def _class(name: str, kind: str) -> Any:
    if kind not in PRETRAINED:
        raise StageError(f"{name}: an autoencoder of class {kind}; understood are {', '.join(PRETRAINED)}.")
    return getattr(importlib.import_module(f"diffusers.models.autoencoders.{PRETRAINED[kind]}"), kind)


def _strides(network: Any) -> tuple[int, int]:
    """(frames per latent frame, pixels per latent pixel)."""
    if type(network).__name__ == "AutoencoderKL":
        return 1, 2 ** (len(network.config.block_out_channels) - 1)
    temporal = network.config.get("scale_factor_temporal") or network.temporal_compression_ratio
    return int(temporal), int(network.spatial_compression_ratio)


def _normalisation(network: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, from wherever the class keeps them.

    ``latents_mean``/``latents_std`` (config, or buffers), ``shift_factor`` and ``scaling_factor`` combine to
    (codes - mean) * scaling / std.

    Raises:
        StageError: the config states another number of channels than the network has.
    """
    config = network.config
    channels = int(config.get("z_dim") or config.get("latent_channels"))
    buffers = dict(network.named_buffers())
    mean = config.get("latents_mean") or buffers.get("latents_mean")
    std = config.get("latents_std") or buffers.get("latents_std")
    mean = torch.as_tensor(mean if mean is not None else [config.get("shift_factor") or 0.0] * channels).float()
    std = torch.as_tensor(std if std is not None else [1.0] * channels).float() / (config.get("scaling_factor") or 1.0)
    if len(mean) != channels or len(std) != channels:
        raise StageError(
            f"{type(network).__name__}: its config normalises {len(mean)} channels, but its latents have {channels}."
        )
    return mean, std
