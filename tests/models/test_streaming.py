"""A long clip decoded in pieces: the pixels of the whole decode, in a memory that does not grow with its length."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipelines.models.autoencoder import Autoencoder
from pipelines.models.pretrained_autoencoder import PretrainedVideoAutoencoder
from pipelines.models.stacked_autoencoder import StackedAutoencoder
from pipelines.models.streaming import decoded_in_pieces
from tests.models.tiny_autoencoders import tiny

STREAMING = ("ours", "AutoencoderKL", "AutoencoderKLFlux2", "AutoencoderKLWan", "AutoencoderKLQwenImage")
WHOLE = ("AutoencoderKLTemporalDecoder", "AutoencoderKLLTXVideo")


def network(kind: str) -> Autoencoder:
    if kind == "ours":
        torch.manual_seed(0)
        return StackedAutoencoder(4, 8, width=8, latent_channels=4, blocks=1).eval().requires_grad_(False)
    return PretrainedVideoAutoencoder(tiny(kind))


def latents(autoencoder: Autoencoder, frames: int) -> Tensor:
    channels = len(autoencoder.latent_mean)
    return torch.randn(1, channels, frames, 2, 2, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", STREAMING + WHOLE)
def test_the_pieces_are_the_pixels_of_the_whole(kind: str) -> None:
    autoencoder = network(kind)
    told = latents(autoencoder, 130 if kind in ("ours", "AutoencoderKL") else 5)
    pieces = list(decoded_in_pieces(autoencoder, told))
    assert (len(pieces) > 1) == (kind in STREAMING[:2] + STREAMING[3:])
    whole = autoencoder.decode(told)
    assert torch.allclose(torch.cat(pieces, dim=2), whole, atol=2e-6)
    assert torch.equal(*(((one + 1) * 127.5).round() for one in (torch.cat(pieces, dim=2), whole)))


@pytest.mark.parametrize("kind", ["ours", "AutoencoderKLWan"])
def test_no_layer_holds_more_of_a_clip_that_is_longer(kind: str) -> None:
    autoencoder = network(kind)
    assert isinstance(autoencoder, nn.Module)
    largest = [0]

    def hold(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            largest[-1] = max(largest[-1], output.numel())

    for module in autoencoder.modules():
        module.register_forward_hook(hold)
    frames = (130, 390) if kind == "ours" else (4, 12)
    for count in frames:
        largest.append(0)
        for piece in decoded_in_pieces(autoencoder, latents(autoencoder, count)):
            largest[-1] = max(largest[-1], piece.numel())
    assert largest[1] == largest[2] > 0
