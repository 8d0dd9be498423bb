"""The convolutional masked autoencoder of the drifting loss: ResNet stages and a U-Net decoder (seed C, C.7).

Stem 3 x 3, stages of widths b, 2b, 4b, 8b with strides 1, 2, 2, 2 in space; hidden latents are set to zero. For
video the second convolution of a block spans ``temporal_kernel`` frames (1: frames by themselves, as in the paper).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.models.feature_list import at_rest, clip_features, feature_list, input_features, reads_change


def conv(into: int, out: int, frames: int = 1, stride: int = 1) -> nn.Conv3d:
    """A frames x 3 x 3 convolution that keeps the number of frames and divides space by ``stride``."""
    return nn.Conv3d(into, out, (frames, 3, 3), (1, stride, stride), (frames // 2, 1, 1), bias=False)


def norm(width: int) -> nn.GroupNorm:
    """Group norm with up to 32 groups, fewer where the width asks for it."""
    return nn.GroupNorm(next(groups for groups in (32, 16, 8, 4, 2, 1) if width % groups == 0), width)


class ResBlock(nn.Module):
    """relu(skip(x) + N(conv(relu(N(conv(x))))))."""

    def __init__(self, into: int, out: int, stride: int, temporal_kernel: int) -> None:
        super().__init__()
        self.first, self.first_norm = conv(into, out, 1, stride), norm(out)
        self.second, self.second_norm = conv(out, out, temporal_kernel), norm(out)
        same = into == out and stride == 1
        self.skip = nn.Identity() if same else nn.Conv3d(into, out, 1, (1, stride, stride), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, into, T, H, W] -> [B, out, T, H / stride, W / stride]."""
        inner = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        return F.relu(self.skip(x) + inner)


class UpBlock(nn.Module):
    """Nearest enlargement to the size of the encoder's map, which is joined by channels; conv, norm, relu."""

    def __init__(self, into: int, beside: int, out: int, temporal_kernel: int) -> None:
        super().__init__()
        self.join, self.norm = conv(into + beside, out, temporal_kernel), norm(out)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        """x [B, into, T, h, w], beside [B, beside, T, H, W] -> [B, out, T, H, W]."""
        large = F.interpolate(x, size=beside.shape[-3:], mode="nearest")
        return F.relu(self.norm(self.join(torch.cat([large, beside], 1))))


class ConvMae(nn.Module):
    """ResNet encoder, U-Net decoder.

    Args:
        channels: C of the latents.
        patch: (frames, rows, columns) that are hidden together.
        width: b, the channels of the first stage.
        blocks: residual blocks per stage, as (3, 4, 6, 3).
        temporal_kernel: frames that the second convolution of a block spans; odd.
        locations: most places per map in the feature list.
    """

    def __init__(
        self,
        channels: int,
        patch: Sequence[int],
        width: int,
        blocks: Sequence[int],
        temporal_kernel: int,
        locations: int,
    ) -> None:
        super().__init__()
        self.patch = (int(patch[0]), int(patch[1]), int(patch[2]))
        self.locations = locations
        widths = [width * 2**number for number in range(len(blocks))]
        self.stem = nn.Sequential(conv(channels, width), norm(width), nn.ReLU())
        stages = []
        for number, (out, count) in enumerate(zip(widths, blocks, strict=True)):
            into = widths[max(number - 1, 0)]
            first = ResBlock(into, out, 1 if number == 0 else 2, temporal_kernel)
            stages.append(nn.Sequential(first, *(ResBlock(out, out, 1, temporal_kernel) for _ in range(count - 1))))
        self.stages = nn.ModuleList(stages)
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.decoder = nn.ModuleList([UpBlock(deep, shallow, shallow, temporal_kernel) for deep, shallow in pairs])
        self.predict = nn.Conv3d(width, channels, 1)

    def maps(self, latents: Tensor) -> list[Tensor]:
        """The map after every stage: [B, b * 2^i, T, H / 2^i, W / 2^i] (rounded up)."""
        x, found = self.stem(latents), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    @property
    def layers(self) -> list[str]:
        """``s1``, ``s2`` …, the stages."""
        return [f"s{number}" for number in range(1, len(self.stages) + 1)]

    def layer_maps(self, latents: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Maps after the named stages."""
        numbers = {name: self.layers.index(name) for name in wanted}
        found = self.maps(latents)
        return {name: found[number] for name, number in numbers.items()}

    def forward(self, latents: Tensor, mask: Tensor) -> Tensor:
        """Prediction [B, C, T, H, W] from latents that are zero where ``mask`` [B, T', H', W'] hides them."""
        for axis, part in enumerate(self.patch, start=1):
            mask = mask.repeat_interleave(part, axis)
        maps = self.maps(latents.masked_fill(mask[:, None], 0.0))
        x = maps[-1]
        for block, beside in zip(self.decoder, maps[-2::-1], strict=True):
            x = block(x, beside)
        return self.predict(x)

    def features(
        self, latents: Tensor, wanted: Collection[str] | None = None, frames: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """The list phi_j over all frames (places count over T, H, W), and the clip poolings of every stage.

        Of ``wanted`` names (None: all) only. ``frames``: which frames of a longer clip these are; convolutions know
        no positions, so it changes nothing here.
        """
        maps = self.maps(latents)
        found = input_features(latents, wanted)
        names = [f"s{number}" for number in range(1, len(maps) + 1)]
        moving = any(reads_change(name, wanted) for name in names)
        rests = self.maps(at_rest(latents)) if moving else [None] * len(maps)
        for name, features, rest in zip(names, maps, rests, strict=True):
            found |= clip_features(features, rest, name, wanted)
        if wanted is None or not found.keys() >= set(wanted):
            found |= feature_list(latents, maps, self.locations)
        return found if wanted is None else {name: found[name] for name in wanted}
