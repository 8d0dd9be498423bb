"""Decoding a video as it grows: what comes out piece by piece is what decoding it whole would give, without seams."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, unpatchify
from torch import Tensor

from pipelines.models.autoencoder import Autoencoder
from pipelines.models.geometry import per_channel
from pipelines.models.stacked_autoencoder import StackedAutoencoder, unstack
from pipelines.stage import StageError


class StreamingDecoder:
    """Latents of a video in pieces, in order, to its frames; keeps what the autoencoder carries from piece to piece.

    Raises:
        StageError: the autoencoder decodes whole clips only.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        self.autoencoder, self.begun = autoencoder, False
        network = getattr(autoencoder, "network", None)
        self.carried: list[Any] | None = None
        if isinstance(autoencoder, StackedAutoencoder) or autoencoder.per_frame:
            return
        if not isinstance(network, AutoencoderKLWan):
            raise StageError(
                f"{type(network).__name__} decodes whole clips, so a rollout would show a seam at every chunk; play "
                "with an autoencoder of this project or with Wan's."
            )
        network.clear_cache()
        self.carried = list(network._feat_map)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """The next latents [B, C, n, H', W'] (normalised) to the frames that they add: [B, 3, T, H, W] in [-1, 1].

        The first latent frame of all is one frame, every later one as many as the temporal stride.
        """
        autoencoder, first, self.begun = self.autoencoder, not self.begun, True
        if self.carried is not None:
            return self._causal(latents, first)
        if not isinstance(autoencoder, StackedAutoencoder):
            return autoencoder.decode(latents)
        if first:
            return autoencoder.decode(latents)
        codes = (latents * per_channel(autoencoder.latent_std) + per_channel(autoencoder.latent_mean)).transpose(1, 2)
        groups = autoencoder.decode_groups(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])
        return unstack(torch.cat([groups[:, :1], groups], 1), autoencoder.frames)[:, :, 1:].clamp(-1, 1)

    def _causal(self, latents: Tensor, first: bool) -> Tensor:
        """As diffusers decodes frame by frame, with the features of its convolutions carried on."""
        network: Any = getattr(self.autoencoder, "network", None)
        codes = latents * per_channel(self.autoencoder.latent_std) + per_channel(self.autoencoder.latent_mean)
        x, parts = network.post_quant_conv(codes), []
        for number in range(x.shape[2]):
            how = {"first_chunk": True} if first and number == 0 else {}
            frame = x[:, :, number : number + 1]
            parts.append(network.decoder(frame, feat_cache=self.carried, feat_idx=[0], **how))
        video = torch.cat(parts, 2)
        folded = network.config["patch_size"]
        if folded is not None:
            video = unpatchify(video, patch_size=folded)
        return video.clamp(-1, 1)
