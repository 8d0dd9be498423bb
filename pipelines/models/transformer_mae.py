"""A VideoMAE-like transformer over latent patches: the encoder sees visible patches, a light decoder sees all."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.models.feature_list import at_rest, clip_features, input_features, reads_change
from pipelines.models.fused import attended, gelu


def sine_positions(grid: Sequence[int], width: int, frames: Sequence[int] | None = None) -> Tensor:
    """[N, width]: sines and cosines of (frame, row, column), a third of the width for each axis, row-major.

    Positions have no weights, so that a clip of another length or size has features too. ``frames``: which frames of
    a longer clip these are.
    """
    pairs = width // 6
    frequency = torch.exp(-math.log(100.0) * torch.arange(pairs) / max(pairs, 1))
    numbers = [torch.arange(length, dtype=torch.float32) for length in grid]
    if frames is not None:
        numbers[0] = torch.tensor(frames, dtype=torch.float32)
    axes = torch.meshgrid(*numbers, indexing="ij")
    angles = torch.cat([axis.reshape(-1, 1) * frequency for axis in axes], 1)
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    return F.pad(waves, (0, width - waves.shape[1]))


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP: x + A(N(x)), then x + M(N(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        parts = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).flatten(1, 2)
        query, key, value = parts
        x = x + self.out(attended(query * query.shape[-1] ** -0.5, key, value, self.heads))
        return x + self.down(gelu(self.up(self.norm_mlp(x))))


def _num_visible(mask: Tensor) -> int:
    """Visible patches of a sample; a length, which a compiled network must be told from outside."""
    return int((~mask[0]).sum())


class TransformerMae(nn.Module):
    """Patches -> encoder on the visible ones -> decoder on all, hidden ones as a learned token.

    Args:
        channels: C of the latents.
        patch: (frames, rows, columns) of one patch.
        width, depth, heads: of the encoder.
        decoder_width, decoder_depth: of the decoder, which only training uses.
    """

    def __init__(
        self,
        channels: int,
        patch: Sequence[int],
        width: int,
        depth: int,
        heads: int,
        decoder_width: int,
        decoder_depth: int,
    ) -> None:
        super().__init__()
        self.patch = (int(patch[0]), int(patch[1]), int(patch[2]))
        size = channels * math.prod(self.patch)
        self.embed = nn.Linear(size, width)
        self.encoder = nn.ModuleList([TransformerBlock(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.bridge = nn.Linear(width, decoder_width)
        self.hidden_embed = nn.Parameter(torch.zeros(decoder_width))
        self.decoder = nn.ModuleList([TransformerBlock(decoder_width, heads) for _ in range(decoder_depth)])
        self.decoder_norm = nn.LayerNorm(decoder_width)
        self.predict = nn.Linear(decoder_width, size)

    def _patches(self, latents: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """[B, C, T, H, W] -> [B, N, C * patch], and (T', H', W')."""
        pt, ph, pw = self.patch
        cells = latents.unflatten(4, (-1, pw)).unflatten(3, (-1, ph)).unflatten(2, (-1, pt))
        cells = cells.permute(0, 2, 4, 6, 1, 3, 5, 7)
        return cells.flatten(4).flatten(1, 3), (cells.shape[1], cells.shape[2], cells.shape[3])

    def _latents(self, patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Inverse of :meth:`_patches`."""
        cells = patches.unflatten(2, (-1, *self.patch)).unflatten(1, grid)
        return cells.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6).flatten(4, 5).flatten(2, 3)

    def _embedded(self, latents: Tensor, frames: Sequence[int] | None = None) -> tuple[Tensor, tuple[int, int, int]]:
        patches, grid = self._patches(latents)
        tokens = self.embed(patches)
        return tokens + sine_positions(grid, tokens.shape[-1], frames).to(tokens), grid

    def forward(self, latents: Tensor, mask: Tensor) -> Tensor:
        """Prediction [B, C, T, H, W]; ``mask`` [B, T', H', W'] hides equally many patches in every sample."""
        tokens, grid = self._embedded(latents)
        hidden = mask.flatten(1)
        # named only where it is needed: it loads torch's compiler, a second of every stage that reads features
        count: Any = torch.compiler.disable(_num_visible) if torch.compiler.is_compiling() else _num_visible
        num_visible = count(mask)
        visible = hidden.long().argsort(dim=1, stable=True)[:, :num_visible, None]
        x = tokens.gather(1, visible.expand(-1, -1, tokens.shape[2]))
        for block in self.encoder:
            x = block(x)
        x = self.bridge(self.norm(x))
        everywhere = self.hidden_embed.to(x.dtype).expand(len(x), hidden.shape[1], -1)
        x = everywhere.scatter(1, visible.expand(-1, -1, x.shape[2]), x)
        x = x + sine_positions(grid, x.shape[2]).to(x)
        for block in self.decoder:
            x = block(x)
        return self._latents(self.predict(self.decoder_norm(x)), grid)

    def _maps(self, latents: Tensor, numbers: Collection[int], frames: Sequence[int] | None) -> dict[int, Tensor]:
        """Maps [B, width, T', H', W'] of the embedding (0) and of blocks; those behind the last one are not run."""
        found: dict[int, Tensor] = {}
        x, grid = self._embedded(latents, frames)
        for number, block in enumerate([nn.Identity(), *self.encoder][: max(numbers, default=-1) + 1]):
            x = block(x)
            if number in numbers:
                shown = self.norm(x) if number == len(self.encoder) else x
                found[number] = shown.transpose(1, 2).unflatten(2, grid)
        return found

    @property
    def layers(self) -> list[str]:
        """``block0`` (the embedding), ``block1`` …"""
        return [f"block{number}" for number in range(len(self.encoder) + 1)]

    def layer_maps(self, latents: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Maps of the named layers; blocks behind the last one are not run."""
        numbers = {self.layers.index(name): name for name in wanted}
        return {numbers[number]: found for number, found in self._maps(latents, numbers, None).items()}

    def features(
        self, latents: Tensor, wanted: Collection[str] | None = None, frames: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Those of the input and, of the embedding (``block0``) and of every block, the clip poolings.

        Of ``wanted`` names (None: all) only; blocks behind the last one named are not run. ``frames``: the numbers of
        the latents' frames within a longer clip, for their positions (patches of one frame each).
        """
        found = input_features(latents, wanted)
        layers = {f"block{number}": number for number in range(len(self.encoder) + 1)}
        asked = {n for name, n in layers.items() if wanted is None or any(w.startswith(f"{name}_") for w in wanted)}
        maps = self._maps(latents, asked, frames)
        rests = self._maps(at_rest(latents), {n for name, n in layers.items() if reads_change(name, wanted)}, frames)
        for number, features in maps.items():
            found |= clip_features(features, rests.get(number), f"block{number}", wanted)
        return found
