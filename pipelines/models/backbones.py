"""Transformers of diffusers behind one call: what each wants to be told, and in which units.

Wan and LTX-Video both predict noise minus data and are told 1000 sigma, which is our convention
(:mod:`pipelines.flow.path`) but for the factor; the factor exists here only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pipelines.stage import StageError

TIMESTEPS = 1000.0
BACKBONES = {"WanTransformer3DModel": "transformer_wan", "LTXVideoTransformer3DModel": "transformer_ltx"}
"""Classes of diffusers that are understood, and their modules in ``diffusers.models.transformers``."""

Extent = tuple[float, float]
"""What one latent element covers: seconds and pixels. LTX-Video places its tokens by it; Wan counts elements."""


@dataclass(frozen=True)
class InputLayout:
    """What a transformer's config says of its inputs.

    Attributes:
        kind: its class.
        in_channels, out_channels: of the latents it takes and of the velocity it gives, before patches are folded.
        text_dim: width of one prompt token.
        patch: latent frames, rows and columns per token.
        wants_image: whether it also takes the embedding of an image (Wan 2.1's image-to-video networks).
    """

    kind: str
    in_channels: int
    out_channels: int
    text_dim: int
    patch: tuple[int, int, int]
    wants_image: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any], kind: str) -> InputLayout:
        """The layout that the config of a class of :data:`BACKBONES` states.

        Raises:
            StageError: the class is not understood.
        """
        if kind == "WanTransformer3DModel":
            time, height, width = config["patch_size"]
            given, made = int(config["in_channels"]), int(config.get("out_channels") or config["in_channels"])
            image = config.get("image_dim") is not None
            return cls(kind, given, made, int(config["text_dim"]), (time, height, width), image)
        if kind == "LTXVideoTransformer3DModel":
            side, time = int(config["patch_size"]), int(config["patch_size_t"])
            folded = side * side * time
            given = int(config["in_channels"])
            made = int(config.get("out_channels") or given)
            return cls(kind, given // folded, made // folded, int(config["caption_channels"]), (time, side, side))
        raise StageError(f"a transformer of class {kind}; understood are {', '.join(BACKBONES)}.")

    def tokens_per_frame(self, x: Tensor) -> int:
        """Tokens that one step of time of ``x`` [B, C, T, H, W] becomes."""
        return (x.shape[3] // self.patch[1]) * (x.shape[4] // self.patch[2])

    def levels(self, sigma: Tensor) -> Tensor:
        """Levels that tokens have: [B, 1] of the clip, [B, T'] of their frames, or [B, T' H' W'], of each by itself."""
        time, height, width = self.patch
        return sigma[:, ::time, ::height, ::width].flatten(1) if sigma.dim() == 4 else sigma[:, ::time]

    def timestep(self, sigma: Tensor, x: Tensor) -> Tensor:
        """1000 sigma in float32: [B] for a level per clip, [B, tokens] for one per latent frame or per element."""
        timestep = self.levels(sigma).float() * TIMESTEPS
        if sigma.shape[1] == 1:
            return timestep[:, 0]
        return timestep if sigma.dim() == 4 else timestep.repeat_interleave(self.tokens_per_frame(x), dim=1)


def packed(x: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """[B, C, T, H, W] as LTX-Video's tokens [B, T' H' W', C p_t p_h p_w]."""
    for axis, side in zip((2, 4, 6), patch, strict=True):
        x = x.unflatten(axis, (-1, side))
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


def unpacked(tokens: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """Inverse of :func:`packed` for ``grid`` = (T', H', W') tokens."""
    parts = tokens.unflatten(1, grid).unflatten(4, (-1, *patch))
    return parts.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def velocity(
    transformer: Any, layout: InputLayout, x: Tensor, sigma: Tensor, text: Tensor, mask: Tensor, extent: Extent | None
) -> Tensor:
    """Velocity [B, C, T, H, W] of ``x`` by a transformer of :data:`BACKBONES`, called as its own pipeline calls it.

    Args:
        sigma: [B, 1], [B, T] or [B, T, H, W].
        text: [B, L, D] with zeros where ``mask`` [B, L] is False. Wan attends to those zeros, LTX-Video does not.
        extent: needed by LTX-Video.
    """
    dtype = transformer.dtype  # as their pipelines do: a network held in bf16 is given bf16
    given, told = x.to(dtype), text.to(dtype)
    timestep = layout.timestep(sigma, x)
    if layout.kind == "WanTransformer3DModel":
        return transformer(given, timestep, told, return_dict=False)[0].to(x.dtype)
    assert extent is not None, "LTX-Video needs the extent of a latent element"
    frames, height, width = (size // side for size, side in zip(x.shape[2:], layout.patch, strict=True))
    tokens = transformer(
        packed(given, layout.patch),
        told,
        timestep,
        encoder_attention_mask=mask,
        num_frames=frames,
        height=height,
        width=width,
        rope_interpolation_scale=(extent[0], extent[1], extent[1]),
        return_dict=False,
    )[0]
    return unpacked(tokens, (frames, height, width), layout.patch).to(x.dtype)
