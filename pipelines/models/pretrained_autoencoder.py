"""Pretrained autoencoders of diffusers behind the words of :mod:`pipelines.models.autoencoder`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines import hub
from pipelines.models import autoencoder_traits
from pipelines.models.geometry import check_geometry, latent_frames, per_channel
from pipelines.stage import StageError


class PretrainedVideoAutoencoder(nn.Module):
    """A video or image autoencoder of diffusers, with the normalisation that its own config states.

    One of pictures encodes each frame for itself. Strides are measured on a clip of a few pixels.

    Args:
        network: an instance of any class of :mod:`diffusers.models.autoencoders` that gives back the clip it encoded.

    Raises:
        StageError: it does not, or its config normalises other latents than its own.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.per_frame = not autoencoder_traits.takes_clips(network)
        self.fold = autoencoder_traits.fold(network)
        self.fitting: set[int] = set()
        channels, self.temporal_stride, self.spatial_stride = self._measured()
        mean, std = autoencoder_traits.normalisation(network, channels)
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
            StageError: it cannot be found or read, or cannot be used.
        """
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

        where: dict[str, Any] = {"revision": revision, "subfolder": subfolder or ""}
        try:
            with warnings.catch_warnings():  # diffusers passes the hub an argument that it no longer takes
                warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks")
                config: Any = AutoencoderTiny.load_config(str(name), **where)
                kind = autoencoder_traits.class_of(str(name), config["_class_name"])
                network = kind.from_pretrained(str(name), **where)
        except StageError:
            raise
        except (OSError, ValueError, KeyError) as error:
            raise hub.unreadable("autoencoder", str(name), revision, subfolder, error) from None
        return cls(network)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Video [B, 3, T, H, W] to normalised latents [B, C, T', H', W'].

        Raises:
            StageError: frames or pixels do not fit the network.
        """
        check_geometry(video, self.temporal_stride, self.spatial_stride)
        self._check_frames(video)
        codes = self._codes(video)
        return (codes - self._over(self.latent_mean, codes)) / self._over(self.latent_std, codes)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, T', H', W'] to video [B, 3, T, H, W], clamped to [-1, 1].

        Raises:
            StageError: there are more latent frames than the normalisation knows.
        """
        codes = latents * self._over(self.latent_std, latents) + self._over(self.latent_mean, latents)
        return self._video(codes).clamp(-1, 1)

    def save_pretrained(self, folder: Path) -> None:
        """The network's own files."""
        self.network.save_pretrained(folder)

    # ---- the network, on clips ----

    def _posterior(self, video: Tensor) -> tuple[Tensor, Tensor | None]:
        """Video to latents [B, C, T', H', W'] before normalisation, and their log variance where there is one."""
        if not self.per_frame:
            return autoencoder_traits.posterior(self.network, video)
        mean, logvar = autoencoder_traits.posterior(self.network, video.transpose(1, 2).flatten(0, 1))
        return self._clips(mean, len(video)), None if logvar is None else self._clips(logvar, len(video))

    def _clips(self, pictures: Tensor, clips: int) -> Tensor:
        """Latents of the frames of so many clips, one after the other, to [B, C, T, H', W']."""
        return functional.pixel_unshuffle(pictures, self.fold).unflatten(0, (clips, -1)).transpose(1, 2)

    def _codes(self, video: Tensor) -> Tensor:
        """Video to latents [B, C, T', H', W'] before normalisation."""
        return self._posterior(video)[0]

    def _video(self, codes: Tensor) -> Tensor:
        """Inverse of :meth:`_codes`, as far as the network goes."""
        frames = codes.shape[2]
        if not self.per_frame:
            return autoencoder_traits.decode(self.network, codes, frames)
        pictures = functional.pixel_shuffle(codes.transpose(1, 2).flatten(0, 1), self.fold)
        decoded = autoencoder_traits.decode(self.network, pictures, frames)
        return decoded.unflatten(0, (len(codes), -1)).transpose(1, 2)

    def _over(self, values: Tensor, latents: Tensor) -> Tensor:
        """Statistics [C], or [C, F] of which the first latent frames count, to be used with latents."""
        if values.dim() == 1:
            return per_channel(values)
        if latents.shape[2] > values.shape[1]:
            raise StageError(
                f"{type(self.network).__name__} normalises {values.shape[1]} latent frames, each by numbers of its "
                f"own; this clip has {latents.shape[2]}. Cut clips of "
                f"{1 + (values.shape[1] - 1) * self.temporal_stride} frames or fewer."
            )
        return values[:, : latents.shape[2], None, None]

    # ---- what fits ----

    @torch.no_grad()
    def _tried(self, clips: int, frames: int, side: int, like: Tensor) -> tuple[torch.Size, torch.Size]:
        """Shapes of the latents of black clips and of what becomes of them.

        Raises:
            StageError: the network does not take them.
        """
        try:
            codes = self._codes(like.new_zeros(clips, 3, frames, side, side))
            return codes.shape, self._video(codes).shape
        except StageError:
            raise
        except Exception as error:  # whatever a network says of a shape that it was not made for
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            text = f"{frames} frames of {side}x{side} pixels cannot be encoded and decoded: {reason}"
            raise autoencoder_traits.unusable(self.network, text) from None

    def _measured(self) -> tuple[int, int, int]:
        """Channels and strides, from two clips of two latent frames after the first (some take odd numbers only).

        Raises:
            StageError: the clips are not given back, or T frames do not become 1 + (T - 1) / stride.
        """
        frames, side = (2 * stride for stride in autoencoder_traits.stated_strides(self.network))
        frames += 1
        like = next(self.network.parameters())
        try:
            latents, video = self._tried(2, frames, side, like)
        except StageError:  # HunyuanVideo 1.5's attention takes one clip only
            if not hasattr(self.network, "enable_slicing"):
                raise
            self.network.enable_slicing()
            latents, video = self._tried(2, frames, side, like)
        _, channels, after, height, width = latents
        even = height == width and side % width == 0 and after > 1 and (frames - 1) % (after - 1) == 0
        if not even or video != (2, 3, frames, side, side):
            became = f"{after}x{height}x{width} latents, and these {'x'.join(map(str, video[2:]))}"
            raise autoencoder_traits.unusable(self.network, f"clips of {frames}x{side}x{side} became {became}")
        return channels, (frames - 1) // (after - 1), side // width

    def _check_frames(self, video: Tensor) -> None:
        """That clips of so many frames are given back, tried once on a clip of a few pixels.

        Raises:
            StageError: they are not, though they fit the stride (CogVideoX gives back 8 frames of 5).
        """
        frames = video.shape[2]
        if self.per_frame or frames in self.fitting:
            return
        if not self._gives_back(frames, video):
            shorter = range(frames - self.temporal_stride, 1, -self.temporal_stride)
            others = (*shorter, frames + self.temporal_stride)
            fits = next((count for count in others if self._gives_back(count, video)), 1)
            raise StageError(
                f"a clip has {frames} frames, which {type(self.network).__name__} does not give back; "
                f"cut clips of {fits} frames."
            )
        self.fitting.add(frames)

    def _gives_back(self, frames: int, like: Tensor) -> bool:
        latents, video = self._tried(1, frames, 2 * self.spatial_stride, like)
        return latents[2] == latent_frames(frames, self.temporal_stride) and video[2] == frames
