"""A video without an end: chunk after chunk, each from noise, each told what came before it.

The network sees sink, window and chunk only (:mod:`pipelines.models.frame_attention`), and what it needs of the past
stands in a memory of constant size. A network without memory goes on from the last frame alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from pipelines.flow import sigmas
from pipelines.flow.params import Sampling
from pipelines.flow.samplers import SAMPLERS

Held = Callable[[int, int], Tensor]
"""(start, stop) to the actions [B, stop - start, rows, A] that these latent frames see; asked once per chunk."""


CLEAN = -1
"""Name of level 0, at which frames are remembered, among those of a chunk, which are counted from 0."""


class ChunkNoise:
    """Noise of the chunks of some samples, in order: a sample's depends on its seed alone, not on batch or length."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed & 0xFFFFFFFF) for seed in seeds]

    def __call__(self, shape: Sequence[int]) -> Tensor:
        """[B, C, T, H, W] for ``shape`` (C, T, H, W) of the next chunk."""
        return torch.stack([torch.randn(*shape, generator=generator) for generator in self.generators])


@dataclass(frozen=True)
class Roll:
    """How a network is rolled out.

    Attributes:
        network: called as :class:`pipelines.models.world_model.WorldModel` is.
        new_memory: makes an empty memory.
        sampling: of each chunk; without guidance.
        chunk: latent frames made at once.
        remembers: whether it was trained to look back over chunks; else each goes on from the last frame alone.
    """

    network: Any
    new_memory: Callable[[], Any]
    sampling: Sampling
    chunk: int
    remembers: bool

    @property
    def levels(self) -> Tensor:
        """The levels of one chunk, [steps + 1]."""
        return sigmas.table(self.sampling.steps, self.sampling.shift)

    def chunks(self, first: Tensor, held: Held, noise: ChunkNoise, told: Any = None) -> Iterator[Tensor]:
        """The first frame [B, C, 1, H, W], then chunk after chunk [B, C, chunk, H, W], as long as they are asked for.

        ``told``: what stands for the first frame where the network hears another embedding of it.
        """
        yield first
        for part in self._made(first, held, noise, told):
            yield part.clone()  # as any other tensor: what is made in inference mode cannot be trained on

    @torch.inference_mode()
    def _made(self, first: Tensor, held: Held, noise: ChunkNoise, told: Any) -> Iterator[Tensor]:
        last, last_held, heard = first, held(0, 1), first if told is None else told
        memory, made = self.new_memory(), 1
        self._write(memory, last, last_held, heard)
        while True:
            if not self.remembers and made > 1:
                memory, heard = memory.anew(), last
                self._write(memory, last, last_held, heard)
            actions = held(made, made + self.chunk)
            x = noise((first.shape[1], self.chunk, *first.shape[3:])).to(first)
            shared = memory.new_chunk()
            x = SAMPLERS[self.sampling.sampler](self._field(memory, shared, actions, heard), x, self.levels)
            yield x  # before it is remembered, which nobody needs of the last chunk
            if self.remembers:
                self._write(memory, x, actions, heard, shared)
            made, last, last_held = made + self.chunk, x[:, :, -1:], actions[:, -1:]

    def _write(self, memory: Any, frames: Tensor, actions: Tensor, heard: Tensor, shared: Any = None) -> None:
        """Let the memory hear of clean frames."""
        batch, count = len(frames), frames.shape[2]
        self.network(
            frames,
            torch.zeros(batch, count, device=frames.device),
            actions=actions,
            given=torch.ones(batch, count, dtype=torch.bool, device=frames.device),
            first_frame=heard,
            chunks=(count,),
            memory=memory,
            remember=True,
            shared=shared,
            level=CLEAN,
        )

    def _field(self, memory: Any, shared: Any, actions: Tensor, heard: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        none = torch.zeros(len(actions), self.chunk, dtype=torch.bool, device=actions.device)
        told = {"actions": actions, "given": none, "first_frame": heard, "chunks": (self.chunk,)}
        calls = count()

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            # a sampler asks at the same levels in every chunk, in the same order
            level = sigma.expand(len(x), self.chunk)
            return self.network(x, level, **told, memory=memory, shared=shared, level=next(calls))

        return denoise

    def out(self, first: Tensor, actions: Tensor, noise: ChunkNoise, told: Any = None) -> Tensor:
        """As many frames [B, C, T, H, W] as there are actions [B, T, rows, A]; a last chunk is made whole, and cut."""
        frames = actions.shape[1]

        def held(start: int, stop: int) -> Tensor:
            part, missing = actions[:, start : min(stop, frames)], max(0, stop - frames)
            return part if not missing else torch.cat([part, actions[:, -1:].expand(-1, missing, -1, -1)], dim=1)

        parts, count = [], 0
        for part in self.chunks(first, held, noise, told):
            parts.append(part)
            count += part.shape[2]
            if count >= frames:
                break
        return torch.cat(parts, dim=2)[:, :, :frames]

    @torch.no_grad()
    def again(self, past: Tensor, actions: Tensor, noise: Tensor, lengths: Sequence[int]) -> Tensor:
        """The next chunk [B, C, n, H, W] computed without a memory: the whole past anew at every level.

        What :meth:`chunks` makes with a memory, at many times the cost; tests and benchmarks compare the two.

        Args:
            past: [B, C, T, H, W], in chunks of ``lengths``.
            actions: [B, T + n, rows, A].
            noise: [B, C, n, H, W] of the chunk.
        """
        count, new = past.shape[2], noise.shape[2]
        given = torch.arange(count + new, device=past.device).expand(len(past), -1) < count

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            level = torch.where(given, 0.0, sigma)
            told = {"actions": actions, "given": given, "first_frame": past[:, :, :1]}
            whole = torch.cat([past, x], dim=2)
            return self.network(whole, level, **told, chunks=(*lengths, new))[:, :, count:]

        return SAMPLERS[self.sampling.sampler](denoise, noise, self.levels)
