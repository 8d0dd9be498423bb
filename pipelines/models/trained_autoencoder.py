"""An autoencoder of diffusers that is trained here, called with groups of frames as our own one is."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from pipelines import hub
from pipelines.models import autoencoder_traits
from pipelines.models.pretrained_autoencoder import PretrainedVideoAutoencoder
from pipelines.models.stacked_autoencoder import Through
from pipelines.stage import StageError


class TrainedVideoAutoencoder(PretrainedVideoAutoencoder):
    """Its gradients are on, and a call gives reconstruction, codes and their log variance.

    Args:
        network: as in :class:`PretrainedVideoAutoencoder`.

    Attributes:
        frames: of the windows that it trains on.

    Raises:
        StageError: it cannot be used.
    """

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        self.frames, self.channels = 1, len(self.latent_mean)
        with torch.no_grad():
            side = 2 * self.spatial_stride
            self.has_posterior = (
                self._posterior(torch.zeros(1, 3, 1 + 2 * self.temporal_stride, side, side))[1] is not None
            )
        network.train().requires_grad_(True)

    @classmethod
    def untrained(cls, name: str, revision: str | None, subfolder: str | None) -> TrainedVideoAutoencoder:
        """Random weights in the architecture that a folder's, or the hub's, ``config.json`` states.

        Raises:
            StageError: there is none, or it cannot be used.
        """
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

        where: dict[str, Any] = {"revision": revision, "subfolder": subfolder or ""}
        try:
            with warnings.catch_warnings():  # diffusers passes the hub an argument that it no longer takes
                warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks")
                config: Any = AutoencoderTiny.load_config(name, **where)
                network = autoencoder_traits.class_of(name, config["_class_name"]).from_config(config)
        except StageError:
            raise
        except (OSError, ValueError, KeyError) as error:
            raise hub.unreadable("autoencoder", name, revision, subfolder, error) from None
        return cls(network)

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Make ``encode`` normalise by what the network's config, or its buffers, can say of these, [C] each.

        A network without a place for them keeps its latents as they are.
        """
        if autoencoder_traits.state_normalisation(self.network, mean, std):
            found = autoencoder_traits.normalisation(self.network, self.channels)
            for held, value in zip((self.latent_mean, self.latent_std), found, strict=True):
                held.copy_(value)

    def forward(
        self, groups: Tensor, through: Through | None = None, sampled: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Stacked frames [B, 3 * frames, H, W] to (reconstruction, codes [B, C, T', H', W'], log variance).

        Arguments and answer are those of :meth:`StackedAutoencoder.forward`.
        """
        codes, logvar = self._posterior(groups.unflatten(1, (3, -1)))
        if not sampled:
            logvar = None
        told = codes if logvar is None else codes + (0.5 * logvar).exp() * torch.randn_like(codes)
        made = self._video(through(told) if through else told)
        return made.flatten(1, 2), codes, logvar
