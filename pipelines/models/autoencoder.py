"""Autoencoders between video and latents: a small one of ours, and every pretrained one behind the same five words.

Video is [B, 3, T, H, W] in [-1, 1]. Latents are normalised per channel, so that over the training clips each has mean 0
and standard deviation 1:

    latents = (codes - latent_mean) / latent_std

T frames become 1 + (T - 1) / temporal_stride latent frames. In most autoencoders the first of them stands for the first
frame alone; in some it hears of the whole clip (:func:`require_lone_first_frame`).
"""

from __future__ import annotations

import contextlib
import inspect
import json
from pathlib import Path
from typing import Protocol

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from pipelines.models.geometry import check_geometry, per_channel
from pipelines.models.pretrained_autoencoder import PretrainedVideoAutoencoder
from pipelines.stage import StageError

WEIGHTS, STATISTICS = "diffusion_pytorch_model.safetensors", "stacking.safetensors"
GROUPS_AT_ONCE = 128
"""Frame groups per forward when encoding or decoding, so that memory does not grow with the clip."""


class VideoAutoencoder(Protocol):
    """What the rest of the project knows of an autoencoder; both classes here are also ``nn.Module``."""

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


# ---- ours ---------------------------------------------------------------------------------------------------------


def stack(video: Tensor, frames: int) -> Tensor:
    """Groups of frames as channels: [B, 3, T, H, W] to [B, 1 + (T - 1) / frames, 3 * frames, H, W].

    The first frame is repeated to fill a group of its own.
    """
    filled = torch.cat([video[:, :, :1].expand(-1, -1, frames, -1, -1), video[:, :, 1:]], dim=2)
    groups = filled.unflatten(2, (-1, frames))  # B 3 G F H W
    return groups.permute(0, 2, 1, 3, 4, 5).flatten(2, 3)


def unstack(groups: Tensor, frames: int) -> Tensor:
    """Inverse of :func:`stack`: of the first group, the mean of its frames is the first frame."""
    video = groups.unflatten(2, (3, frames)).permute(0, 2, 1, 3, 4, 5)  # B 3 G F H W
    first = video[:, :, 0].mean(dim=2, keepdim=True)
    return torch.cat([first, video[:, :, 1:].flatten(2, 3)], dim=2)


class StackedAutoencoder(nn.Module):
    """A two-dimensional autoencoder over groups of frames stacked as channels: diffusers' AutoencoderTiny without KL.

    Ten to thirty times faster than a three-dimensional video autoencoder and of the same geometry. Patches of pixels
    are folded into channels first: layers at full resolution cost most and bring least.

    Args:
        frames: per group, which is the temporal stride.
        patch: side of the pixel patches folded into channels: 1, 2 or 4.
        width: channels of every layer.
        latent_channels: C.
        blocks: residual blocks at each resolution but the finest (which has one); the spatial stride is 8.
    """

    def __init__(self, frames: int, patch: int, width: int, latent_channels: int, blocks: int) -> None:
        super().__init__()
        levels = {1: 4, 2: 3, 4: 2}[patch]
        network = AutoencoderTiny(
            in_channels=3 * frames * patch**2,
            out_channels=3 * frames * patch**2,
            encoder_block_out_channels=(width,) * levels,
            decoder_block_out_channels=(width,) * levels,
            num_encoder_blocks=(1, *(blocks,) * (levels - 1)),
            num_decoder_blocks=(*(blocks,) * (levels - 1), 1),
            latent_channels=latent_channels,
        )
        self._adopt(network, frames, patch, torch.zeros(latent_channels), torch.ones(latent_channels))

    def _adopt(self, network: AutoencoderTiny, frames: int, patch: int, mean: Tensor, std: Tensor) -> None:
        self.network, self.patch = network, patch
        for layer in network.encoder.modules():
            if isinstance(layer, nn.Conv2d):  # zeros at the border would be the strongest signal of the latents
                layer.padding_mode = "replicate"
        self.frames = self.temporal_stride = frames
        self.spatial_stride = 8
        self.latent_mean: Tensor
        self.latent_std: Tensor
        self.register_buffer("latent_mean", mean)
        self.register_buffer("latent_std", std)

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Make ``encode`` normalise by these, [C] each."""
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)

    # ---- groups, for training ----

    def encode_groups(self, groups: Tensor) -> Tensor:
        """Stacked frames [N, 3 * frames, H, W] to codes [N, C, H / 8, W / 8], not normalised."""
        folded = functional.pixel_unshuffle(groups, self.patch)
        return self.network.encoder(folded.contiguous(memory_format=torch.channels_last))

    def decode_groups(self, codes: Tensor) -> Tensor:
        """Codes to stacked frames, not clamped."""
        return functional.pixel_shuffle(self.network.decoder(codes), self.patch)

    def forward(self, groups: Tensor) -> Tensor:
        """The reconstruction of stacked frames."""
        return self.decode_groups(self.encode_groups(groups))

    # ---- clips ----

    @torch.no_grad()
    def codes(self, video: Tensor) -> Tensor:
        """Video to latents before normalisation."""
        check_geometry(video, self.temporal_stride, self.spatial_stride)
        groups = stack(video, self.frames)
        flat = torch.cat([self.encode_groups(part) for part in groups.flatten(0, 1).split(GROUPS_AT_ONCE)])
        return flat.unflatten(0, groups.shape[:2]).transpose(1, 2)

    def encode(self, video: Tensor) -> Tensor:
        """Video [B, 3, T, H, W] to normalised latents [B, C, T', H', W'].

        Raises:
            StageError: frames or pixels do not fit the strides.
        """
        return (self.codes(video) - per_channel(self.latent_mean)) / per_channel(self.latent_std)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, T', H', W'] to video [B, 3, T, H, W], clamped to [-1, 1]."""
        codes = (latents * per_channel(self.latent_std) + per_channel(self.latent_mean)).transpose(1, 2)
        flat = torch.cat([self.decode_groups(part) for part in codes.flatten(0, 1).split(GROUPS_AT_ONCE)])
        return unstack(flat.unflatten(0, codes.shape[:2]), self.frames).clamp(-1, 1)

    # ---- files ----

    def save_pretrained(self, folder: Path) -> None:
        """AutoencoderTiny's own files, and beside them how frames are folded and latents normalised.

        diffusers loads the network from them; its encoder then pads with zeros where ours repeats the border.
        """
        self.network.save_pretrained(folder)
        sizes = {"frames": torch.tensor(self.frames), "patch": torch.tensor(self.patch)}
        statistics = {"latent_mean": self.latent_mean.cpu(), "latent_std": self.latent_std.cpu()}
        save_file(sizes | statistics, Path(folder) / STATISTICS)

    @classmethod
    def from_pretrained(cls, folder: Path) -> StackedAutoencoder:
        """Inverse of :meth:`save_pretrained`."""
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        known = inspect.signature(AutoencoderTiny.__init__).parameters
        network = AutoencoderTiny(**{name: value for name, value in config.items() if name in known})
        network.load_state_dict(load_file(Path(folder) / WEIGHTS))
        facts = load_file(Path(folder) / STATISTICS)
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        sizes = int(facts["frames"]), int(facts["patch"])
        self._adopt(network, *sizes, facts["latent_mean"], facts["latent_std"])
        return self


Autoencoder = StackedAutoencoder | PretrainedVideoAutoencoder


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
    if (folder / STATISTICS).is_file():
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
