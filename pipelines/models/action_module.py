"""How a block of a video transformer hears keyboard and mouse (Matrix-Game 2.0's module, arXiv:2508.13009).

Mouse: the token's features and the axes that its latent frame covers go through a small network, then attend over time
at each place by itself. Keyboard: image tokens ask, the keys of each latent frame answer. Both are added to the tokens
through projections that start at zero, so a new module changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pipelines.models.frame_attention import Memory, Reach, Shared, attend_after, turns
from pipelines.models.fused import asking, attended, gelu, heads_first
from pipelines.models.joined import Pair, rms_normed

if TYPE_CHECKING:
    from pipelines.models.window import Window

Past: TypeAlias = tuple[Sequence[int], Reach, Memory, Shared]
"""Lengths of the chunks, how far each looks back, what earlier frames left, and what calls of a chunk share."""
EPS = 1e-6
"""Of the norms of queries and keys."""


class ActionModule(nn.Module):
    """Tokens [B, T, S, D] and actions [B, T, rows, A] to tokens.

    Args:
        width: D.
        keys, axes: columns of the actions that are keys, and the others.
        rows: raw rows that a latent frame sees.
        hidden: width of one embedded row of keys.
        inner: width of both attentions, a multiple of ``heads``.
        rotary: elements of a head that are turned by time.
        theta: slowest wavelength of that turning, as a base.
        qkv_bias: whether the inner projections have biases (published ones have none).
    """

    def __init__(
        self,
        width: int,
        keys: Sequence[int],
        axes: Sequence[int],
        rows: int,
        hidden: int,
        inner: int,
        heads: int,
        rotary: int,
        theta: float = 256.0,
        qkv_bias: bool = False,
    ) -> None:
        super().__init__()
        self.keys, self.axes, self.heads, self.rotary, self.theta = tuple(keys), tuple(axes), heads, rotary, theta
        head = inner // heads
        if self.axes:
            self.mouse_mlp = nn.Sequential(
                nn.Linear(width + rows * len(self.axes), inner),
                nn.GELU(approximate="tanh"),
                nn.Linear(inner, inner),
                nn.LayerNorm(inner),
            )
            self.mouse_qkv = nn.Linear(inner, 3 * inner, bias=qkv_bias)
            self.mouse_norm_q, self.mouse_norm_k = nn.RMSNorm(head, eps=EPS), nn.RMSNorm(head, eps=EPS)
            self.mouse_out = nn.Linear(inner, width, bias=qkv_bias)
        if self.keys:
            self.key_embed = nn.Sequential(nn.Linear(len(self.keys), hidden), nn.SiLU(), nn.Linear(hidden, hidden))
            self.key_q = nn.Linear(width, inner, bias=qkv_bias)
            self.key_kv = nn.Linear(rows * hidden, 2 * inner, bias=qkv_bias)
            self.key_norm_q, self.key_norm_k = nn.RMSNorm(head, eps=EPS), nn.RMSNorm(head, eps=EPS)
            self.key_out = nn.Linear(inner, width, bias=qkv_bias)
        self.silence()

    def silence(self) -> None:
        """Set the outputs to zero: the block does what it did without actions."""
        for name in ("mouse_out", "key_out"):
            layer = getattr(self, name, None)
            if layer is not None:
                nn.init.zeros_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(
        self,
        tokens: Tensor,
        actions: Tensor,
        chunks: Sequence[int],
        reach: Reach,
        memory: Memory,
        shared: Shared,
        name: str,
        new: Any,
    ) -> Tensor:
        """Tokens that heard their actions; keys and values of the new frames go into ``new`` by name."""
        past = chunks, reach, memory, shared
        if self.axes:
            tokens = tokens + self._mouse(tokens, actions, past, f"{name}.mouse", new)
        if self.keys:
            tokens = tokens + self._keys(tokens, actions, past, f"{name}.keys", new)
        return tokens

    def over(self, tokens: Tensor, actions: Tensor, window: Window) -> Tensor:
        """The same over a whole window that nothing came before; tokens of the frames that ask alone."""
        asking = tokens[:, window.first :] if window.first else tokens
        tokens = asking + self._mouse_over(tokens, actions, window) if self.axes else asking
        if self.keys:
            tokens = tokens + self._keys_over(tokens, actions, window)
        return tokens

    def _mouse_over(self, tokens: Tensor, actions: Tensor, window: Window) -> Tensor:
        moved = self._moved(actions.to(tokens), tokens.shape[-1])
        asked = self.mouse_qkv(self._mixed(tokens, moved, gelu))
        weight = torch.stack([asking(self.mouse_norm_q, self.mouse_norm_q.weight.shape[0]), self.mouse_norm_k.weight])
        query, key, value = self._heads_first(asked, weight, window, 1)
        query = query[:, window.first :] if window.first else query
        out = self.mouse_out(attended(query, key, value, self.heads, window.hidden(1, 1)))
        return out.unflatten(0, (len(tokens), -1)).transpose(1, 2)

    def _keys_over(self, tokens: Tensor, actions: Tensor, window: Window) -> Tensor:
        each, weight = tokens.shape[2], asking(self.key_norm_q, self.key_norm_q.weight.shape[0])[None]
        (query,) = self._heads_first(self.key_q(tokens.flatten(1, 2)), weight, window, each)
        told = self.key_kv(self.key_embed(actions.to(tokens)[..., list(self.keys)]).flatten(2))
        key, value = self._heads_first(told, self.key_norm_k.weight[None], window, 1)
        return self.key_out(attended(query, key, value, self.heads, window.hidden(each, 1))).view_as(tokens)

    def _heads_first(self, x: Tensor, weight: Tensor, window: Window, each: int) -> tuple[Tensor, ...]:
        turn = window.turn(self.rotary, self.theta, weight.shape[-1], each)[-x.shape[1] :]
        return heads_first(x, weight, EPS, turn, self.heads, self.heads)

    def _moved(self, actions: Tensor, width: int) -> Tensor:
        """What the axes [B, T, rows, A] add to the first layer of the mouse's network, [B, T, inner]."""
        first: Any = self.mouse_mlp[0]
        return linear(actions[..., list(self.axes)].flatten(2), first.weight[:, width:], first.bias)

    def _mixed(self, tokens: Tensor, moved: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        """Tokens and what moved through the mouse's network, by place: [B S, T, inner]."""
        first: Any
        first, _, second, norm = self.mouse_mlp
        mixed = linear(tokens, first.weight[:, : tokens.shape[-1]]) + moved[:, :, None]
        return norm(second(act(mixed))).transpose(1, 2).flatten(0, 1)

    def _after(
        self, past: Past, name: str, query: Tensor, key: Tensor, value: Tensor, both: Tensor | None = None
    ) -> Tensor:
        chunks, reach, memory, shared = past
        known = memory.kept[name][0].shape[1] if name in memory.kept else 0
        places = min(known + key.shape[1], reach.sink + reach.window + max(chunks))
        turn = turns(places, self.rotary, self.theta, key.device, key.shape[-1])[:, None, None]
        return attend_after(memory, shared, name, (query, key, value), chunks, reach, turn, both)

    def _mouse(self, tokens: Tensor, actions: Tensor, past: Past, name: str, new: Any) -> Tensor:
        batch, _, places, width = tokens.shape
        told = past[-1].once(f"{name}.told", lambda: self._moved(actions.to(tokens), width))
        mixed = self._mixed(tokens, told, self.mouse_mlp[1])
        asked = self.mouse_qkv(mixed).unflatten(-1, (3, self.heads, -1))[:, :, None]
        if torch.is_inference_mode_enabled() and asked.dtype == torch.float32:
            lasting: Shared = past[2].lasting
            pair = lasting.once(name, lambda: Pair(self.mouse_norm_q, self.mouse_norm_k, between=1))
            both, value = pair(asked[:, :, :, :2]), asked[:, :, :, 2]
            query, key = both.unbind(3)
        else:
            query, key, value = asked.unbind(3)
            query, key, both = rms_normed(self.mouse_norm_q, query), rms_normed(self.mouse_norm_k, key), None
        new[name] = (key, value)
        out = self._after(past, name, query, key, value, both)
        return self.mouse_out(out.squeeze(2).unflatten(0, (batch, places)).transpose(1, 2))

    def _keys(self, tokens: Tensor, actions: Tensor, past: Past, name: str, new: Any) -> Tensor:
        query = rms_normed(self.key_norm_q, self.key_q(tokens).unflatten(-1, (self.heads, -1)))
        new[name] = past[-1].once(f"{name}.told", lambda: self._told(actions.to(tokens)[..., list(self.keys)]))
        return self.key_out(self._after(past, name, query, *new[name]))

    def _told(self, held: Tensor) -> tuple[Tensor, Tensor]:
        """One key and value [B, T, 1, heads, dim] per latent frame."""
        told = self.key_kv(self.key_embed(held).flatten(2))[:, :, None]
        key, value = (part.unflatten(-1, (self.heads, -1)) for part in told.chunk(2, -1))
        return rms_normed(self.key_norm_k, key), value
