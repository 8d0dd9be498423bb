"""Attention over frames of a video that grows: who sees whom, and the keys and values that are kept.

Frames come in chunks. A chunk sees itself, the ``window`` frames before it and the first ``sink`` frames of all. Keys
are kept as they are before rotation and turned anew for every chunk, by their place among what it sees: sink, window
and chunk stand side by side however long the video is, so a network meets no distance that training did not show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.models.joined import Joined, rms_normed


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
    """What earlier frames left: constant in size however many there were; ``last`` [B, C, H, W] is the newest one.

    ``levels``: what the levels of a chunk make of the network, which every chunk meets again; ``lasting``: what the
    network is to all of them.
    """

    kept: Kept = field(default_factory=dict)
    frames: int = 0
    last: Tensor | None = None
    levels: dict[int, Shared] = field(default_factory=dict)
    lasting: Shared = field(default_factory=lambda: Shared())

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

    def new_chunk(self) -> Shared:
        """For the calls of the next chunk."""
        return Shared()

    def of_level(self, number: int | None) -> Shared:
        """For calls at the same level, of all chunks; a level without a number is met once."""
        return Shared() if number is None else self.levels.setdefault(number, Shared())

    def anew(self) -> Memory:
        """Nothing of the past, the same levels."""
        return Memory(levels=self.levels, lasting=self.lasting)


@dataclass
class Shared:
    """What the calls of one chunk share, computed by the first: neither x nor sigma changes it."""

    found: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gave when ``name`` was first asked for."""
        if name not in self.found:
            self.found[name] = make()
        return self.found[name]


def turned(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary positions on pairs of neighbouring elements: x [..., heads, dim] by ``turn``, complex [..., 1, r / 2].

    Elements beyond r stay as they are.
    """
    width = 2 * turn.shape[-1]
    part = x[..., :width].float().unflatten(-1, (-1, 2))
    mixed = torch.view_as_real(torch.view_as_complex(part.contiguous()) * turn).flatten(-2).type_as(x)
    return mixed if width == x.shape[-1] else torch.cat([mixed, x[..., width:]], dim=-1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a training may ask for them after a rollout did
def turns(places: int, dims: int, theta: float, device: torch.device, head: int = 0) -> Tensor:
    """Unit complex numbers [places, dims / 2] that turn places 0, 1, 2 …, computed once.

    With a ``head`` of more elements these are turned by nothing, so that one multiplication serves a whole head.
    """
    speed = theta ** -(torch.arange(0, dims, 2, dtype=torch.float64) / dims)
    if head > dims and head % 2 == 0:
        speed = torch.cat([speed, speed.new_zeros((head - dims) // 2)])
    angle = torch.arange(places, dtype=torch.float64)[:, None] * speed
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64).to(device)


def chosen(x: Tensor, frames: Sequence[int]) -> Tensor:
    """Some frames of [N, frames, …]: a view where they stand side by side."""
    if len(frames) == frames[-1] - frames[0] + 1:
        return x[:, frames[0] : frames[-1] + 1]
    return x[:, list(frames)]


class Side:
    """Keys and values that a chunk sees, heads first; those of the past are turned and in place once for all levels."""

    def __init__(self, kept: tuple[Tensor, Tensor], length: int, reach: Reach, turn: Tensor) -> None:
        before = kept[0].shape[1]
        past = reach.seen(before, before + length)[:-length]
        self.turn, self.begin = turn[len(past) : len(past) + length], len(past) * kept[0].shape[2]
        count, _, places, heads, dim = kept[0].shape
        shape = (count, heads, (len(past) + length) * places, dim)
        self.key, self.value = kept[0].new_empty(shape), kept[1].new_empty(shape)
        self.own_key, self.own_value = (
            side[:, :, self.begin :].transpose(1, 2).unflatten(1, (length, places)) for side in (self.key, self.value)
        )
        self.written: Tensor | None = None
        if past:
            self.key[:, :, : self.begin] = _heads_first(turned(chosen(kept[0], past), turn[: len(past)]))
            self.value[:, :, : self.begin] = _heads_first(chosen(kept[1], past))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As :func:`attend`, for the chunk's own queries, keys and values [N, length, places, heads, dim]."""
        if key is not self.written:  # what actions answer is the same at all levels
            self.own_key.copy_(turned(key, self.turn))
            self.own_value.copy_(value)
            self.written = key
        return self._answered(turned(query, self.turn))

    def attend_itself(self, both: Tensor, value: Tensor) -> Tensor:
        """The same where queries and keys stand side by side: [N, length, places, 2, heads, dim]."""
        query, key = turned(both, self.turn[..., None, :, :]).unbind(3)
        self.own_key.copy_(key)
        self.own_value.copy_(value)
        return self._answered(query)

    def _answered(self, query: Tensor) -> Tensor:
        asked = _heads_first(query)
        out = functional.scaled_dot_product_attention(asked, self.key, self.value)
        return out.transpose(1, 2).flatten(2).unflatten(1, (query.shape[1], -1))


def _heads_first(x: Tensor) -> Tensor:
    """[N, T, places, heads, dim] to [N, heads, T places, dim]."""
    return x.flatten(1, 2).transpose(1, 2)


def attend_after(
    past: Memory,
    shared: Shared,
    name: str,
    new: tuple[Tensor, Tensor, Tensor],
    chunks: Sequence[int],
    reach: Reach,
    turn: Tensor,
    both: Tensor | None = None,
) -> Tensor:
    """New frames' queries, keys and values after what ``past`` kept of the attention ``name``: [N, T, Q, heads * dim].

    ``turn`` turns queries and keys; a chunk of a rollout finds the past's keys as an earlier call left them. ``both``:
    queries and keys once more, where they stand side by side.
    """
    query, key, value = new
    if len(chunks) == 1 and name in past.kept and not torch.is_grad_enabled():
        side: Side = shared.once(name, lambda: Side(past.kept[name], key.shape[1], reach, turn))
        return side.attend(query, key, value) if both is None else side.attend_itself(both, value)
    return attend(query, *past.with_new(name, key, value), chunks, reach, turn, turn)


def attend_itself(
    attention: Any,
    tokens: Tensor,
    past: Memory,
    shared: Shared,
    name: str,
    chunks: Sequence[int],
    reach: Reach,
    turn: Tensor,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """What tokens [B, T, S, D] see of one another and the past [B, T, S, D], and their keys and values."""
    if Joined.joins(attention, tokens):
        both, value = past.lasting.once(name, lambda: Joined(attention))(tokens)
        query, key = both.unbind(3)
    else:
        query, key, value = attention.to_q(tokens), attention.to_k(tokens), attention.to_v(tokens)
        query, key = rms_normed(attention.norm_q, query), rms_normed(attention.norm_k, key)
        query, key, value = (part.unflatten(-1, (attention.heads, -1)) for part in (query, key, value))
        both = None
    return attend_after(past, shared, name, (query, key, value), chunks, reach, turn, both), (key, value)


def attend(
    query: Tensor, key: Tensor, value: Tensor, chunks: Sequence[int], reach: Reach, of_queries: Tensor, of_keys: Tensor
) -> Tensor:
    """Every chunk of new frames attends to what it sees: [N, T, Q, heads * dim].

    Args:
        query: [N, T, Q, heads, dim] of the new frames.
        key, value: [N, M + T, K, heads, dim], kept frames first.
        chunks: lengths of the new frames' chunks, in order; they sum to T.
        of_queries, of_keys: what turns them (:func:`turns`), by place among what a chunk sees: [places, Q or 1, 1, r]
            and [places, K or 1, 1, r].
    """
    before, outs, done = key.shape[1] - query.shape[1], [], 0
    for length in chunks:
        start, stop = before + done, before + done + length
        seen = reach.seen(start, stop)
        places = slice(len(seen) - length, len(seen))
        asked = turned(query[:, done : done + length], of_queries[places])
        told = turned(chosen(key, seen), of_keys[: len(seen)])
        out = functional.scaled_dot_product_attention(
            _heads_first(asked), _heads_first(told), _heads_first(chosen(value, seen))
        )
        outs.append(out.transpose(1, 2).flatten(2).unflatten(1, (length, -1)))
        done += length
    return torch.cat(outs, 1)


def crossed(attention: Any, tokens: Tensor, heard: Tensor, shared: Shared, number: int) -> Tensor:
    """Cross-attention as diffusers computes it, with keys and values of what is heard computed once."""

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(2, (attention.heads, -1)).transpose(1, 2)

    def told() -> tuple[Tensor, Tensor]:
        return heads(rms_normed(attention.norm_k, attention.to_k(heard))), heads(attention.to_v(heard))

    key, value = shared.once(f"{number}.heard", told)
    out = functional.scaled_dot_product_attention(
        heads(rms_normed(attention.norm_q, attention.to_q(tokens))), key, value
    )
    return attention.to_out[0](out.transpose(1, 2).flatten(2))


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def space_and_time(
    places: int,
    height: int,
    width: int,
    of_time: int,
    of_rows: int,
    of_columns: int,
    theta: float,
    device: torch.device,
) -> Tensor:
    """As diffusers' ``WanRotaryPosEmbed``, but complex: parts of a head turned by time, row and column."""
    shape = (places, height, width, -1)
    time = turns(places, of_time, theta, device)[:, None, None].expand(shape)
    row = turns(height, of_rows, theta, device)[None, :, None].expand(shape)
    column = turns(width, of_columns, theta, device)[None, None].expand(shape)
    return torch.cat([time, row, column], -1).flatten(1, 2)[:, :, None]
