"""Our autoencoder: a two-dimensional network over groups of frames stacked as channels, around a linear code.

Both halves are a linear map of patches of 8 x 8 pixels (and ``frames`` frames) plus a convolutional correction:

    codes = L(patches) + E(patches),    patches = M(codes) + D(codes)

E and D end in weights of zero. Where L and M start as the principal components of the training patches
(:meth:`StackedAutoencoder.start_linear`), training starts at the best linear code and can only go on from there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from pipelines.models.geometry import check_geometry, fold, per_channel, unfold
from pipelines.models.spade import SpadeBlock
from pipelines.stage import StageError

KIND, WEIGHTS = "StackedAutoencoder", "model.safetensors"
SPATIAL_STRIDE = 8
GROUPS_AT_ONCE = 128
"""Frame groups per forward when encoding or decoding, so that memory does not grow with the clip."""
Through = Callable[[Tensor], Tensor]
LOGVAR_RANGE = (-30.0, 20.0)
"""Of the posterior: beyond it exp() of float32 says nothing."""


def stack(video: Tensor, frames: int) -> Tensor:
    """Groups of frames as channels: [B, 3, T, H, W] to [B, 1 + (T - 1) / frames, 3 * frames, H, W].

    The first frame is repeated to fill a group of its own.
    """
    filled = torch.cat([video[:, :, :1].expand(-1, -1, frames, -1, -1), video[:, :, 1:]], dim=2)
    return filled.unflatten(2, (-1, frames)).transpose(1, 2).flatten(2, 3)  # B 3 G F H W between


def unstack(groups: Tensor, frames: int) -> Tensor:
    """Inverse of :func:`stack`: of the first group, the mean of its frames is the first frame."""
    video = groups.unflatten(2, (3, frames)).permute(0, 2, 1, 3, 4, 5)  # B 3 G F H W
    first = video[:, :, 0].mean(dim=2, keepdim=True)
    return torch.cat([first, video[:, :, 1:].flatten(2, 3)], dim=2)


def _convolution(inputs: int, outputs: int, side: int = 3, stride: int = 1) -> nn.Conv2d:
    """It repeats the border: zeros there would be the strongest signal of the latents."""
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, padding_mode="replicate")


class ResidualBlock(nn.Module):
    """x + C(relu(C(relu(x)))), two convolutions of 3 x 3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(width, width), _convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, W, h, w] to the same."""
        return x + self.second(functional.relu(self.first(functional.relu(x))))


class _Doubled(nn.Module):
    """Twice the height and width: each pixel repeated, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = _convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Encoder(nn.Module):
    def __init__(self, patch: int, values: int, width: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.patch = patch
        layers: list[nn.Module] = [_convolution(values * patch**2, width, side=1)]
        for _ in range((SPATIAL_STRIDE // patch).bit_length() - 1):
            layers += [ResidualBlock(width), _convolution(width, width, stride=2)]
        self.layers = nn.Sequential(*layers, *(ResidualBlock(width) for _ in range(blocks)))
        self.out = _convolution(width, outputs, side=1)

    def forward(self, patches: Tensor) -> Tensor:
        return self.out(self.layers(patches))


class _Decoder(nn.Module):
    def __init__(self, patch: int, values: int, width: int, inputs: int, blocks: int, spade: int | None) -> None:
        super().__init__()
        self.patch = patch
        self.enter = _convolution(inputs, width)
        self.told = nn.ModuleList([SpadeBlock(width, inputs, spade)] if spade else [])
        layers: list[nn.Module] = [ResidualBlock(width) for _ in range(blocks)]
        for _ in range((SPATIAL_STRIDE // patch).bit_length() - 1):
            layers += [_Doubled(width), ResidualBlock(width)]
        self.layers = nn.Sequential(*layers)
        self.out = _convolution(width, values * patch**2, side=1)

    def forward(self, codes: Tensor) -> Tensor:
        x = self.layers(self.enter(codes))
        for block in self.told:
            x = block(x, codes)
        return self.out(x)


class StackedAutoencoder(nn.Module):
    """Frames as channels, spatial stride 8; one latent frame per group of frames.

    Ten to thirty times faster than a three-dimensional video autoencoder and of the same geometry.

    Args:
        frames: per group, which is the temporal stride.
        patch: side of the pixel patches that the correction's first layer folds into channels: 1, 2, 4 or 8; smaller
            ones have layers at finer resolutions, which cost most.
        width: channels of every layer of the corrections.
        latent_channels: C.
        blocks: residual blocks at the latents' resolution, in each half.
        posterior: also a variance per latent element, for a loss with a KL term (:meth:`posterior_of`).
        spade: hidden channels of a SPADE block at the end of the decoder; None: without.
    """

    def __init__(
        self,
        frames: int,
        patch: int,
        width: int,
        latent_channels: int,
        blocks: int,
        posterior: bool = False,
        spade: int | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "frames": frames,
            "patch": patch,
            "width": width,
            "latent_channels": latent_channels,
            "blocks": blocks,
            "posterior": posterior,
            "spade": spade,
        }
        self.frames = self.temporal_stride = frames
        self.spatial_stride, self.channels = SPATIAL_STRIDE, latent_channels
        whole = 3 * frames * SPATIAL_STRIDE**2
        self.linear_in, self.linear_out = nn.Conv2d(whole, latent_channels, 1), nn.Conv2d(latent_channels, whole, 1)
        outputs = latent_channels * (2 if posterior else 1)
        self.encoder = _Encoder(patch, 3 * frames, width, outputs, blocks)
        self.decoder = _Decoder(patch, 3 * frames, width, latent_channels, blocks, spade)
        self.latent_mean: Tensor
        self.latent_std: Tensor
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    @torch.no_grad()
    def start_linear(self, mean: Tensor, components: Tensor, deviation: float) -> None:
        """Become a linear code of patches, which training then corrects.

        No component is stretched, so distances between codes are those between patches but for one factor.

        Args:
            mean: [D] of patches, D = 3 * frames * 8 * 8 in the order of :func:`pixel_unshuffle`.
            components: [D, K], orthonormal, K at most C; codes beyond them start at zero.
            deviation: of the patches along a component, on average; codes start with a mean square of 1.
        """
        kept, scale = components.shape[1], max(deviation, 1e-6)
        for layer in (self.linear_in, self.linear_out):
            layer.weight.zero_()
        self.linear_in.weight[:kept, :, 0, 0] = (components / scale).T
        self.linear_in.bias.zero_()  # type: ignore[union-attr]
        self.linear_in.bias[:kept] = -(mean @ (components / scale))  # type: ignore[index]
        self.linear_out.weight[:, :kept, 0, 0] = components * scale
        self.linear_out.bias.copy_(mean)  # type: ignore[union-attr]
        for correction in (self.encoder.out, self.decoder.out):
            correction.weight.zero_()
            correction.bias.zero_()  # type: ignore[union-attr]

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Make ``encode`` normalise by these, [C] each."""
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)

    # ---- groups, for training ----

    def posterior_of(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Stacked frames [N, 3 * frames, H, W] to mean and log variance of their codes, [N, C, H / 8, W / 8] each.

        Raises:
            StageError: the network was made without a posterior.
        """
        if not self.config["posterior"]:
            raise StageError("this autoencoder was made without a posterior, so there is no KL term for it.")
        linear, posterior = self._halves(groups)
        correction, logvar = posterior.chunk(2, dim=1)
        return linear + correction, logvar.clamp(*LOGVAR_RANGE)

    def encode_groups(self, groups: Tensor) -> Tensor:
        """Stacked frames to codes [N, C, H / 8, W / 8] (the posterior's mean), not normalised."""
        linear, correction = self._halves(groups)
        return linear + correction[:, : self.channels]

    def _halves(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """What the linear map and the encoder say of stacked frames; patches of one size are folded once for both."""
        whole = fold(groups, SPATIAL_STRIDE)
        patches = whole if self.encoder.patch == SPATIAL_STRIDE else fold(groups, self.encoder.patch)
        return self.linear_in(whole), self.encoder(patches)

    def decode_groups(self, codes: Tensor) -> Tensor:
        """Codes to stacked frames, not clamped."""
        linear, correction, side = self.linear_out(codes), self.decoder(codes), self.decoder.patch
        if side == SPATIAL_STRIDE:
            return unfold(linear + correction, side)
        return unfold(linear, SPATIAL_STRIDE) + unfold(correction, side)

    def forward(
        self, groups: Tensor, through: Through | None = None, sampled: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Stacked frames to (reconstruction, codes, log variance of the codes).

        Args:
            through: what happens to the codes before they are decoded.
            sampled: decode a sample of the posterior, not its mean; without, the log variance is None.
        """
        codes, logvar = self.posterior_of(groups) if sampled else (self.encode_groups(groups), None)
        told = codes if logvar is None else codes + (0.5 * logvar).exp() * torch.randn_like(codes)
        return self.decode_groups(through(told) if through else told), codes, logvar

    # ---- clips ----

    @torch.no_grad()
    def codes(self, video: Tensor) -> Tensor:
        """Video to latents before normalisation."""
        check_geometry(video, self.temporal_stride, self.spatial_stride)
        groups = stack(video, self.frames)
        flat = torch.cat([self.encode_groups(part) for part in groups.flatten(0, 1).split(GROUPS_AT_ONCE)])
        return flat.unflatten(0, groups.shape[:2]).transpose(1, 2)

    def encode(self, video: Tensor) -> Tensor:
        """Video [B, 3, T, H, W] to normalised latents [B, C, T', H', W'].

        Raises:
            StageError: frames or pixels do not fit the strides.
        """
        return (self.codes(video) - per_channel(self.latent_mean)) / per_channel(self.latent_std)

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, T', H', W'] to video [B, 3, T, H, W], clamped to [-1, 1]."""
        return torch.cat(list(self.decode_pieces(latents)), dim=2)

    @torch.no_grad()
    def decode_pieces(self, latents: Tensor, groups: int = GROUPS_AT_ONCE) -> Iterator[Tensor]:
        """The same video in pieces [B, 3, t, H, W] along its frames, in order.

        Latent frames are decoded each for itself, so memory does not grow with the clip, and nothing changes at a seam.

        Args:
            groups: latent frames of the whole batch at once, at least one per clip.
        """
        for number, part in enumerate(latents.split(max(1, groups // len(latents)), dim=2)):
            yield self.decode_part(part, first=number == 0)

    @torch.no_grad()
    def decode_part(self, latents: Tensor, first: bool) -> Tensor:
        """Some latent frames of a clip to its frames; ``first``: the clip begins with them."""
        codes = (latents * per_channel(self.latent_std) + per_channel(self.latent_mean)).transpose(1, 2)
        decoded = self.decode_groups(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])
        if first:
            return unstack(decoded, self.frames).clamp(-1, 1)
        return decoded.unflatten(2, (3, self.frames)).transpose(1, 2).flatten(2, 3).clamp(-1, 1)

    # ---- files ----

    def save_pretrained(self, folder: Path) -> None:
        """``config.json`` and ``model.safetensors``; how latents are normalised is among the weights."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.cpu().contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS)
        config = json.dumps({"_class_name": KIND, **self.config}, indent=2) + "\n"
        (folder / "config.json").write_text(config, encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: Path) -> StackedAutoencoder:
        """Inverse of :meth:`save_pretrained`.

        Raises:
            StageError: weights that do not fit the config.
        """
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        try:
            network = cls(**{name: value for name, value in config.items() if name != "_class_name"})
            network.load_state_dict(load_file(Path(folder) / WEIGHTS))
        except (TypeError, RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())[:300]
            raise StageError(f"{folder}: weights and config.json of the autoencoder do not fit: {reason}") from None
        return network
