"""Patch discriminators of clips, in two or three dimensions: one logit per patch, their mean per sample."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

SLOPE = 0.2
"""Of the leaky ReLUs."""


class PatchDiscriminator(nn.Module):
    """Strided convolutions, the last of which gives a logit per patch; every weight has spectral norm 1.

    In two dimensions each frame is judged for itself. With a condition, a logit also has the projection of the patch's
    features on an embedding of the condition (arXiv:1802.05637).

    Args:
        dimensions: 2 or 3.
        width: channels after the first convolution; doubled by each further one, to at most 8 times.
        levels: convolutions of stride 2 (in space; frames are kept), so a patch sees about 2 ** (levels + 2) pixels.
        condition: length of the condition's vector; None: without.
    """

    def __init__(self, dimensions: int, width: int, levels: int, condition: int | None) -> None:
        super().__init__()
        self.config = {"dimensions": dimensions, "width": width, "levels": levels, "condition": condition}
        self.dimensions = dimensions
        widths = [3, *(width * min(2**level, 8) for level in range(levels))]

        def convolution(inputs: int, outputs: int) -> nn.Module:
            if dimensions == 2:
                return spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1))
            return spectral_norm(nn.Conv3d(inputs, outputs, (3, 4, 4), (1, 2, 2), 1))

        self.layers = nn.ModuleList([convolution(a, b) for a, b in pairwise(widths)])
        last = nn.Conv2d(widths[-1], 1, 1) if dimensions == 2 else nn.Conv3d(widths[-1], 1, 1)
        self.out = spectral_norm(last)
        self.embedding = spectral_norm(nn.Linear(condition, widths[-1])) if condition else None

    def forward(self, video: Tensor, condition: Tensor | None = None) -> Tensor:
        """Video [B, 3, F, H, W], and a condition [B, D] where it was made with one, to logits [B].

        Raises:
            ValueError: a condition is missing, or is given to a discriminator without.
        """
        if (condition is None) != (self.embedding is None):
            raise ValueError("this discriminator takes a condition" if self.embedding else "it takes no condition")
        x = video.transpose(1, 2).flatten(0, 1) if self.dimensions == 2 else video
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), SLOPE)
        logits = self.out(x).flatten(1)
        if self.embedding is not None:
            told = self.embedding(condition).repeat_interleave(len(x) // len(video), 0)
            logits = logits + torch.einsum("nc...,nc->n...", x, told).flatten(1)
        return logits.mean(dim=1).unflatten(0, (len(video), -1)).mean(dim=1)
