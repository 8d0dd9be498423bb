"""A draft of the frames to be made: what a convolutional network, told the actions, makes of the frame before.

A transformer has to learn from nothing that a key moves what is near to where it points; a convolution whose
activations the actions scale and shift learns it in a small part of the updates. The draft stands in the channels of
the given latents, at the frames that are not given, and depends on neither noise nor sigma: a chunk needs it once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 8
"""Of the normalisations; a draft's width is a multiple of it."""


class Draft(nn.Module):
    """Latents [B, C, H, W] and the actions of the next frame [B, N] to a draft of it [B, C, H, W].

    A new one repeats the frame.

    Args:
        channels: C.
        told: N.
        width: channels inside, a multiple of GROUPS.
        blocks: residual blocks.
    """

    def __init__(self, channels: int, told: int, width: int, blocks: int) -> None:
        super().__init__()
        self.hear = nn.Sequential(nn.Linear(told, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList([Steered(width) for _ in range(blocks)])
        self.leave = nn.Conv2d(width, channels, 3, padding=1)
        for part in self.leave.parameters():
            nn.init.zeros_(part)

    def forward(self, frame: Tensor, told: Tensor) -> Tensor:
        """The next frame, as far as it can be told."""
        heard, x = self.hear(told), self.enter(frame)
        for block in self.blocks:
            x = block(x, heard)
        return frame + self.leave(functional.silu(x))

    def of(self, x: Tensor, given: Tensor, actions: Tensor, last: Tensor | None) -> Tensor:
        """``x`` [B, C, T, H, W] where it is given, else the draft of what was before: one frame after the other.

        Args:
            given: bool [B, T].
            actions: [B, T, rows, A].
            last: [B, C, H, W], the frame before the first one; None: nothing, which counts as zeros.
        """
        before, frames = torch.zeros_like(x[:, :, 0]) if last is None else last, []
        for number, in_all in enumerate(given.all(0).tolist()):
            told = x[:, :, number]
            if not in_all:
                made = self(before, actions[:, number].flatten(1).to(x))
                told = torch.where(given[:, number, None, None, None], told, made)
            frames.append(told)
            before = told
        return torch.stack(frames, 2)


class Steered(nn.Module):
    """A residual block whose normalised activations are scaled and shifted by what it hears [B, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.steer = nn.Linear(width, 2 * width)
        self.look = nn.Conv2d(width, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.mix.weight)

    def forward(self, x: Tensor, heard: Tensor) -> Tensor:
        """[B, width, H, W] to the same."""
        scale, shift = self.steer(heard)[..., None, None].chunk(2, 1)
        steered = functional.silu(self.norm(x) * (1 + scale) + shift)
        return x + self.mix(functional.silu(self.look(steered)))
