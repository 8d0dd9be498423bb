"""diffusers' Wan transformer computed for processors: the same layers and weights, fewer passes over memory.

Levels of noise stay one per clip or latent frame where diffusers repeats them for every token, the stream of tokens
stays in float32, and what stands between the projections of an attention is one function (:mod:`.fused`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn
from torch.nn import functional

from pipelines.models import modulation
from pipelines.models.frame_attention import space_and_time
from pipelines.models.fused import asking, attended, gelu, heads_first, joined

THETA = 10_000.0
"""Base of the wavelengths of Wan's rotation."""


def fits(transformer: Any, x: Tensor) -> bool:
    """Whether :func:`velocity` computes this network here: on a processor, in bfloat16, of plain layers, not compiled.

    In float32 products take most of the time and nothing is gained: there what diffusers says is said bit for bit.
    """
    if not isinstance(transformer, WanTransformer3DModel) or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return False
    if transformer.config["image_dim"] is not None or transformer.gradient_checkpointing:
        return False
    return all(_is_plain(one) for block in transformer.blocks for one in (block.attn1, block.attn2))


def velocity(transformer: Any, x: Tensor, levels: Tensor, text: Tensor) -> Tensor:
    """What ``transformer(x, 1000 levels, text)`` gives, [B, C, T, H, W].

    Args:
        x: [B, C, T, H, W].
        levels: sigma, [B, L] with L a divisor of the number of tokens: of the clip, of latent frames, of tokens.
        text: [B, M, D].
    """
    # the mode of :func:`pipelines.training.precision.computing` costs 3 us a call, and nothing here needs it
    with torch._C.DisableTorchFunction():
        return _velocity(transformer, x, levels, text)


def _velocity(transformer: Any, x: Tensor, levels: Tensor, text: Tensor) -> Tensor:
    embedder = transformer.condition_embedder
    tokens = transformer.patch_embedding(x)
    grid = tokens.shape[2:]
    tokens = tokens.flatten(2).transpose(1, 2).float().contiguous()  # else every block goes through them in strides
    tokens = tokens.unflatten(1, (levels.shape[1], -1))
    whole, told = modulation.embedded(embedder, levels, tokens)
    heard = embedder.text_embedder(text)
    turn = rotation(transformer.rope, grid, x.device)
    for block in transformer.blocks:
        tokens = computed(block, tokens, heard, told, turn)
    made = transformer.proj_out(
        modulation.scaled(transformer.norm_out, tokens, *modulation.of_output(transformer, whole))
    )
    time, height, width = transformer.config["patch_size"]
    cells = made.reshape(len(x), *grid, time, height, width, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return cells.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def rotation(rope: Any, grid: tuple[int, ...], device: torch.device) -> Tensor:
    """Unit complex numbers [tokens, head / 2] that turn the queries and keys of a grid of (frames, rows, columns)."""
    turn = space_and_time(grid[0], grid[1], grid[2], rope.t_dim, rope.h_dim, rope.w_dim, THETA, device)
    return turn.flatten(0, 2)


def computed(
    block: Any,
    tokens: Tensor,
    heard: Tensor,
    told: Tensor,
    turn: Tensor,
    hidden: Tensor | None = None,
    between: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """One block: tokens [B, L, S, D] among themselves, over the text [B, M, D], and by themselves.

    Args:
        told: [B, L, 6, D], what levels say (:func:`pipelines.models.modulation.embedded`).
        turn: :func:`rotation`.
        hidden: which tokens are unseen by which (:func:`pipelines.models.fused.attended`).
        between: what is done to tokens before they go by themselves; it may give the last of L alone.
    """
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = modulation.of_block(block, told)
    normed = modulation.scaled(block.norm1, tokens, shift, scale)
    seen = _among(block.attn1, normed.flatten(1, 2), turn, hidden).view_as(tokens)
    tokens = modulation.gated(tokens, seen, gate)
    flat = tokens.flatten(1, 2)
    tokens = (flat + _over(block.attn2, block.norm2(flat), heard)).view_as(tokens)
    if between is not None:
        tokens = between(tokens)
        if tokens.shape[1] < told.shape[1]:
            ffn_shift, ffn_scale, ffn_gate = (part[:, -tokens.shape[1] :] for part in (ffn_shift, ffn_scale, ffn_gate))
    normed = modulation.scaled(block.norm3, tokens, ffn_shift, ffn_scale)
    up, _, down = block.ffn.net
    return modulation.gated(tokens, down(gelu(up.proj(normed))), ffn_gate)


def _among(attention: Any, tokens: Tensor, turn: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Attention of tokens [B, N, D] among themselves, but for what is ``hidden`` (:func:`attended`)."""
    side_by_side = functional.linear(tokens, *joined(attention.to_q, attention.to_k, attention.to_v))
    weight = torch.stack([_scaled(attention), attention.norm_k.weight])
    query, key, value = heads_first(side_by_side, weight, attention.norm_q.eps, turn, attention.heads)
    return attention.to_out[0](attended(query, key, value, attention.heads, hidden))


def _over(attention: Any, tokens: Tensor, heard: Tensor) -> Tensor:
    """Attention of tokens [B, N, D] over the text [B, M, D]."""
    eps, heads = attention.norm_q.eps, attention.heads
    (query,) = heads_first(attention.to_q(tokens), _scaled(attention)[None], eps, None, heads)
    told = functional.linear(heard, *joined(attention.to_k, attention.to_v))
    key, value = heads_first(told, attention.norm_k.weight[None], eps, None, heads)
    return attention.to_out[0](attended(query, key, value, heads))


def _scaled(attention: Any) -> Tensor:
    return asking(attention.norm_q, attention.inner_dim // attention.heads)


def _is_plain(attention: Any) -> bool:
    """Whether queries, keys and values are plain layers in float32: no adapter, no part of a layer, nothing joined."""
    layers = (attention.to_q, attention.to_k, attention.to_v)
    plain = all(type(layer) is nn.Linear and type(layer.weight) is nn.Parameter for layer in layers)
    return plain and layers[0].weight.dtype == torch.float32 and not attention.fused_projections
