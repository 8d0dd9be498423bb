"""Masked autoencoder over video latents: the frozen feature space of classes, drift and scores.

Two families behind one interface: a transformer that encodes visible patches only (VideoMAE, arXiv:2203.12602) and a
convolutional U-Net with ResNet stages (the feature encoder of the drifting loss, seed C). Both take latents
[B, C, T, H, W] (mean 0, standard deviation 1 per channel) and predict what a mask hid.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipelines.models.conv_mae import ConvMae
from pipelines.models.transformer_mae import TransformerMae

FAMILIES = {"transformer": TransformerMae, "conv": ConvMae}


def draw_mask(batch: int, grid: tuple[int, int, int], ratio: float, shape: Literal["tube", "patch"]) -> Tensor:
    """Bool [B, T', H', W'], True = hidden, with the same number hidden in every sample.

    ``tube`` hides the same places in all frames (a moving thing cannot be copied from the next frame of the same
    place), ``patch`` hides each patch of each frame on its own. At least one patch is hidden and one is visible.
    """
    frames, height, width = grid
    count = height * width * (frames if shape == "patch" else 1)
    hidden = min(max(round(ratio * count), 1), count - 1)
    order = torch.rand(batch, count).argsort(1).argsort(1)
    mask = order < hidden
    if shape == "patch":
        return mask.view(batch, frames, height, width)
    return mask.view(batch, 1, height, width).expand(-1, frames, -1, -1).clone()


class LatentMae(nn.Module):
    """A masked autoencoder of latents with ``channels`` channels.

    Args:
        channels: C of the latents.
        architecture: ``{"family": "transformer" | "conv", ...}`` and the keyword arguments of that family's class.
    """

    def __init__(self, channels: int, architecture: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = {"channels": channels, "architecture": dict(architecture)}
        values = dict(architecture)
        self.backbone: TransformerMae | ConvMae = FAMILIES[values.pop("family")](channels, **values)

    def grid(self, shape: torch.Size | tuple[int, ...]) -> tuple[int, int, int]:
        """Patches (T', H', W') of latents of the shape [..., T, H, W].

        Raises:
            ValueError: the latents are not a whole number of patches.
        """
        lengths = tuple(shape[-3:])
        if any(length % part for length, part in zip(lengths, self.backbone.patch, strict=True)):
            raise ValueError(f"latents of {lengths} (T, H, W) are not a whole number of {self.backbone.patch} patches")
        frames, height, width = (length // part for length, part in zip(lengths, self.backbone.patch, strict=True))
        return frames, height, width

    def forward(self, latents: Tensor, mask: Tensor) -> Tensor:
        """Prediction [B, C, T, H, W] of all latents from those that ``mask`` [B, T', H', W'] leaves visible."""
        return self.backbone(latents, mask)

    def hidden(self, mask: Tensor) -> Tensor:
        """The mask of patches as a mask of latents: bool [B, 1, T, H, W]."""
        for axis, part in enumerate(self.backbone.patch, start=1):
            mask = mask.repeat_interleave(part, axis)
        return mask[:, None]

    def features(
        self, latents: Tensor, wanted: Collection[str] | None = None, frames: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Named feature vectors [B, D] of unmasked latents; names and D are those of the family, for fixed T, H, W.

        With ``wanted`` names, only those, and at less cost. With ``frames``, the latents are these frames of a longer
        clip (keyframes), and are told so where the family has positions.

        Raises:
            ValueError: ``frames`` are given, and patches span several frames.
        """
        if frames is not None and self.backbone.patch[0] > 1:
            raise ValueError(f"patches of {self.backbone.patch[0]} frames cannot be cut out of chosen frames")
        return self.backbone.features(latents, wanted, frames)

    def maps(self, latents: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """The maps [B, D, T', H', W'] after some layers, named as the features of those layers begin.

        Raises:
            ValueError: there is no such layer.
        """
        return self.backbone.layer_maps(latents, layers)

    @property
    def layers(self) -> list[str]:
        """Names of the layers whose maps there are."""
        return self.backbone.layers

    # ---- files ----

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> LatentMae:
        """The saved network, in evaluation mode. Strict: a weight that is missing or left over is an error, because a
        partly loaded encoder is a random feature space that nobody notices.

        Raises:
            FileNotFoundError, ValueError: the folder is not a latent MAE, or weights do not fit its config.
        """
        folder = Path(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if set(config) != {"channels", "architecture"} or config["architecture"].get("family") not in FAMILIES:
            raise ValueError(f"{folder / 'config.json'}: not the config of a latent MAE (families: {list(FAMILIES)}).")
        network = cls(config["channels"], config["architecture"])
        try:
            network.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"{folder / 'model.safetensors'}: weights do not fit config.json: {reason}") from None
        return network.eval().requires_grad_(False)
