"""The halves of an autoencoder that is trained here: which modules encode, which decode, what a loss asks of them."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from pipelines.models.autoencoder import Trainable
from pipelines.models.stacked_autoencoder import StackedAutoencoder

Half = Literal["encoder", "decoder"]
OURS = {"encoder": ("linear_in", "encoder"), "decoder": ("linear_out", "decoder")}
THEIRS = {"encoder": ("encoder", "quant_conv"), "decoder": ("decoder", "post_quant_conv")}


def modules_of(autoencoder: Trainable, half: Half) -> list[nn.Module]:
    """The modules of one half."""
    ours = isinstance(autoencoder, StackedAutoencoder)
    holder: Any = autoencoder if ours else autoencoder.network
    found = (getattr(holder, name, None) for name in (OURS if ours else THEIRS)[half])
    return [module for module in found if module is not None]


def last_layer(autoencoder: Trainable) -> nn.Parameter:
    """Weights of the decoder's last convolution, where gradients of losses are compared."""
    if isinstance(autoencoder, StackedAutoencoder):
        return autoencoder.get_parameter("decoder.out.weight")
    return [one for one in autoencoder.network.decoder.parameters() if one.dim() >= 4][-1]


def has_posterior(autoencoder: Trainable) -> bool:
    """Whether codes have a variance, which a KL term is about."""
    if isinstance(autoencoder, StackedAutoencoder):
        return autoencoder.config["posterior"]
    return autoencoder.has_posterior
