"""Decoding a video piece by piece: what comes out is what decoding it whole would give, without seams."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pipelines.models.autoencoder import Autoencoder
from pipelines.models.geometry import per_channel
from pipelines.models.stacked_autoencoder import GROUPS_AT_ONCE, StackedAutoencoder
from pipelines.stage import StageError

CARRIES = {"AutoencoderKLWan", "AutoencoderKLQwenImage"}
"""Networks of diffusers that decode a latent frame at a time and carry features of their convolutions on."""


def _carries(network: Any) -> set[str]:
    """By name, because importing the classes takes seconds which an autoencoder of ours does not need."""
    return CARRIES & {one.__name__ for one in type(network).__mro__}


def latent_frames_at_once(autoencoder: Autoencoder, clips: int) -> int | None:
    """Latent frames of so many clips that are decoded together, however long they are; None: whole clips only."""
    if isinstance(autoencoder, StackedAutoencoder):
        return max(1, GROUPS_AT_ONCE // clips)
    if _carries(autoencoder.network):
        return 1
    looks_around = "num_frames" in inspect.signature(autoencoder.network.decode).parameters
    return max(1, GROUPS_AT_ONCE // clips) if autoencoder.per_frame and not looks_around else None


def decoded_in_pieces(autoencoder: Autoencoder, latents: Tensor) -> Iterator[Tensor]:
    """The video of normalised latents [B, C, T', H', W'] in pieces [B, 3, t, H, W], in order: their memory is constant.

    An autoencoder that decodes whole clips only gives one piece.
    """
    count = latent_frames_at_once(autoencoder, len(latents))
    if count is None:
        yield autoencoder.decode(latents)
        return
    decoder = StreamingDecoder(autoencoder)
    for part in latents.split(count, dim=2):
        yield decoder.decode(part)


class StreamingDecoder:
    """Latents of a video in pieces, in order, to its frames; keeps what the autoencoder carries from piece to piece.

    Raises:
        StageError: the autoencoder decodes whole clips only.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        self.autoencoder, self.begun = autoencoder, False
        self.carried: list[Any] | None = None
        network: Any = getattr(autoencoder, "network", None)
        if latent_frames_at_once(autoencoder, 1) is None:
            raise StageError(
                f"{type(network).__name__} decodes whole clips, so a rollout would show a seam at every chunk; play "
                "with an autoencoder of this project or with Wan's."
            )
        if _carries(network):
            network.clear_cache()
            self.carried = list(network._feat_map)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """The next latents [B, C, n, H', W'] (normalised) to the frames that they add: [B, 3, T, H, W] in [-1, 1].

        The first latent frame of all is one frame, every later one as many as the temporal stride.
        """
        first, self.begun = not self.begun, True
        if self.carried is not None:
            return self._causal(latents, first)
        if isinstance(self.autoencoder, StackedAutoencoder):
            return self.autoencoder.decode_part(latents, first)
        return self.autoencoder.decode(latents)

    def _causal(self, latents: Tensor, first: bool) -> Tensor:
        """As diffusers decodes frame by frame, with the features of its convolutions carried on."""
        network: Any = getattr(self.autoencoder, "network", None)
        codes = latents * per_channel(self.autoencoder.latent_std) + per_channel(self.autoencoder.latent_mean)
        x, parts = network.post_quant_conv(codes), []
        for number in range(x.shape[2]):
            begins = first and number == 0 and "AutoencoderKLWan" in _carries(network)
            how = {"first_chunk": True} if begins else {}
            frame = x[:, :, number : number + 1]
            parts.append(network.decoder(frame, feat_cache=self.carried, feat_idx=[0], **how))
        video = torch.cat(parts, 2)
        folded = network.config.get("patch_size")
        if folded is not None:
            from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

            video = unpatchify(video, patch_size=folded)
        return video.clamp(-1, 1)
