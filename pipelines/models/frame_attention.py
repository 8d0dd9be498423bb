"""Attention over frames of a video that grows: who sees whom, and the keys and values that are kept.

Frames come in chunks. A chunk sees itself, the ``window`` frames before it and the first ``sink`` frames of all. Keys
are kept as they are before rotation and turned anew for every chunk, by their place among what it sees: sink, window
and chunk stand side by side however long the video is, so a network meets no distance that training did not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Reach:
    """How far a chunk looks back: the first ``sink`` frames of the video and the last ``window`` before it."""

    sink: int
    window: int

    def seen(self, start: int, stop: int) -> list[int]:
        """Frames that the chunk [start, stop) sees, in order, itself last."""
        recent = max(start - self.window, min(self.sink, start))
        return [*range(min(self.sink, start)), *range(recent, stop)]

    def kept(self, frames: int) -> list[int]:
        """Of so many frames, those that a later chunk may see."""
        return self.seen(frames, frames)


Kept = dict[str, tuple[Tensor, Tensor]]
"""Keys and values by the attention that they belong to, each [N, frames, tokens, heads, dim]."""


@dataclass
class Memory:
    """What earlier frames left: constant in size however many there were."""

    kept: Kept = field(default_factory=dict)
    frames: int = 0

    @property
    def kept_frames(self) -> int:
        """Frames whose keys and values are here."""
        return next(iter(self.kept.values()))[0].shape[1] if self.kept else 0

    def with_new(self, name: str, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Kept and new keys and values of one attention, joined over frames."""
        if name not in self.kept:
            return key, value
        old_key, old_value = self.kept[name]
        return torch.cat([old_key, key], 1), torch.cat([old_value, value], 1)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on pairs of neighbouring elements: x [..., heads, dim]; cos, sin [..., 1, r] with r <= dim even.

    Elements beyond r stay as they are.
    """
    part, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    even, odd = part[..., 0::2], part[..., 1::2]
    c, s = cos[..., 0::2], sin[..., 0::2]
    mixed = torch.stack([even * c - odd * s, even * s + odd * c], dim=-1).flatten(-2)
    return torch.cat([mixed, rest], dim=-1).type_as(x)


def angles(places: Tensor, dims: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine [..., dims] of places, each angle twice in a row as :func:`turned` takes them."""
    speed = theta ** -(torch.arange(0, dims, 2, dtype=torch.float64, device=places.device) / dims)
    angle = (places[..., None].double() * speed).repeat_interleave(2, dim=-1)
    return angle.cos().float(), angle.sin().float()


def attend(
    query: Tensor, key: Tensor, value: Tensor, chunks: Sequence[int], reach: Reach, rotary: Sequence[Tensor]
) -> Tensor:
    """Every chunk of new frames attends to what it sees: [N, T, Q, heads * dim].

    Args:
        query: [N, T, Q, heads, dim] of the new frames.
        key, value: [N, M + T, K, heads, dim], kept frames first.
        chunks: lengths of the new frames' chunks, in order; they sum to T.
        rotary: cosine and sine of the queries, then of the keys, by place among what a chunk sees:
            [places, Q or 1, 1, r] and [places, K or 1, 1, r].
    """
    query_cos, query_sin, key_cos, key_sin = rotary
    before, outs, done = key.shape[1] - query.shape[1], [], 0
    for length in chunks:
        start, stop = before + done, before + done + length
        seen = reach.seen(start, stop)
        places = slice(len(seen) - length, len(seen))
        asked = turned(query[:, done : done + length], query_cos[places], query_sin[places])
        told = turned(key[:, seen], key_cos[: len(seen)], key_sin[: len(seen)])
        out = functional.scaled_dot_product_attention(
            asked.flatten(1, 2).transpose(1, 2),
            told.flatten(1, 2).transpose(1, 2),
            value[:, seen].flatten(1, 2).transpose(1, 2),
        )
        outs.append(out.transpose(1, 2).flatten(2).unflatten(1, (length, -1)))
        done += length
    return torch.cat(outs, 1)
