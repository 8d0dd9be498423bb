"""A world model over a whole window of frames, as training and validation ask it, computed for processors.

A rollout adds chunk to chunk and keeps keys and values. A window has all its chunks at once, and each sees every frame
before it: then places among what a chunk sees are places in the window, so queries and keys are turned once, and an
attention is one softmax over the window in which later chunks are hidden (:mod:`.fused`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipelines.models import modulation, wan
from pipelines.models.frame_attention import Memory, Reach, Shared, turns

if TYPE_CHECKING:
    from pipelines.models.world_model import WorldModel


@dataclass(frozen=True)
class Window:
    """Frames in chunks, ``places`` tokens each; tokens of frames before ``first`` answer, but ask no more."""

    chunks: tuple[int, ...]
    places: int
    device: torch.device
    first: int = 0

    def hidden(self, queries: int, keys: int) -> Tensor:
        """Added to scores of so many queries and keys a frame [(T - first) queries, T keys]: 0, -inf if unseen."""
        return _hidden(self.chunks, queries, keys, self.device)[self.first * queries :]

    def turn(self, dims: int, theta: float, head: int, each: int) -> Tensor:
        """What turns ``dims`` elements of a head by its frame's place [T each, head / 2], ``each`` alike a frame."""
        return _turn(sum(self.chunks), dims, theta, head, each, self.device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _hidden(chunks: tuple[int, ...], queries: int, keys: int, device: torch.device) -> Tensor:
    stop = torch.tensor([end for end, length in zip(accumulate(chunks), chunks, strict=True) for _ in range(length)])
    unseen = torch.arange(len(stop)) >= stop[:, None]
    hidden = torch.zeros(unseen.shape).masked_fill_(unseen, -torch.inf)
    return hidden.repeat_interleave(queries, 0).repeat_interleave(keys, 1).to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _turn(frames: int, dims: int, theta: float, head: int, each: int, device: torch.device) -> Tensor:
    return turns(frames, dims, theta, device, head).repeat_interleave(each, 0)


def fits(model: WorldModel, x: Tensor, chunks: Sequence[int]) -> bool:
    """Whether :func:`velocity` computes this window here: :func:`pipelines.models.wan.fits`, and no chunk forgets."""
    stops = list(accumulate(chunks))
    reach: Reach = model.reach
    whole = all(
        reach.seen(stop - length, stop) == list(range(stop)) for stop, length in zip(stops, chunks, strict=True)
    )
    return whole and wan.fits(model.transformer, x)


def velocity(
    model: WorldModel,
    x: Tensor,
    sigma: Tensor,
    actions: Tensor,
    given: Tensor,
    first_frame: Tensor,
    chunks: Sequence[int],
    shared: Shared,
    first: int = 0,
) -> Tensor:
    """What the model says of a window that nothing came before; arguments and result are those of its ``forward``.

    What frames before ``first`` become in the last block, after their last keys and values, nobody asks.
    """
    with torch._C.DisableTorchFunction():  # as in :func:`pipelines.models.wan.velocity`
        transformer = model.transformer
        tokens = model.embed(x, given, actions, Memory(), shared).float()
        grid = (x.shape[2], x.shape[3] // model.patch[1], x.shape[4] // model.patch[2])
        whole, told = modulation.embedded(transformer.condition_embedder, sigma, tokens)
        heard, turn = model.hear(first_frame), wan.rotation(transformer.rope, grid, x.device)
        window = Window(tuple(chunks), tokens.shape[2], x.device)
        hidden, last = window.hidden(window.places, window.places), len(model.actions) - 1
        action: Any
        for number, (block, action) in enumerate(zip(transformer.blocks, model.actions, strict=True)):
            asking = replace(window, first=first) if number == last else window
            tokens = wan.computed(
                block, tokens, heard, told, turn, hidden, partial(action.over, actions=actions, window=asking)
            )
        shift, scale = modulation.of_output(transformer, whole[:, first:])
        normed = modulation.scaled(transformer.norm_out, tokens, shift, scale)
        return model.fold(normed, (grid[0] - first, *grid[1:]))
