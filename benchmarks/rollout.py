"""Rollouts of the world model: cost per frame at 81, 810 and 8,100 frames, and cached over uncached at 81.

On networks with random weights and a random autoencoder: time does not depend on what they hold. Both ways must give
the same latents. At the demo's size (16 tokens a frame) calling torch costs more than what it computes, with memory or
without; the larger network says what a memory is worth where computing counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from benchmarks.paired import Figure, cpu_seconds, ratios
from pipelines.flow.params import Sampling
from pipelines.flow.rollout import ChunkNoise, Roll
from pipelines.models.autoencoder import StackedAutoencoder
from pipelines.models.denoiser import POSITION_CHANNELS
from pipelines.models.frame_attention import Memory
from pipelines.models.streaming import StreamingDecoder
from pipelines.models.world_model import Inputs, WorldModel
from pipelines.origin import peak_gib

CHANNELS, CHUNK, STRIDE, DRAFT = 16, 2, 4, {"width": 96, "blocks": 3}
LONGER, ROUNDS = {810: 3, 8100: 1}, 3
"""Frames of longer rollouts, and how often each is timed; rounds of the comparison of 81 frames."""


@dataclass(frozen=True)
class Size:
    """A network: side of the latents, levels of a chunk, and sizes of the transformer."""

    side: int
    steps: int
    heads: int
    head_dim: int
    layers: int
    feed_forward: int

    def roll(self) -> Roll:
        """A rollout of a network of this size."""
        torch.manual_seed(0)
        action = {"hidden": 32, "inner": 128, "heads": 4, "rotary": 8}
        inputs = Inputs(CHANNELS, 1, POSITION_CHANNELS, "patches", (0, 1, 2, 3), (4, 5), STRIDE, action, 1, 2, DRAFT)
        sizes = {name: getattr(self, name) for name in ("heads", "head_dim", "layers", "feed_forward")}
        model = WorldModel.build(inputs, **sizes, patch=(1, 2, 2))
        torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.05)
        sampling = Sampling(sampler="euler", steps=self.steps, shift=3.0, guidance=None)
        return Roll(model.eval(), Memory, sampling, CHUNK, remembers=True)

    def first(self) -> Tensor:
        """A first latent frame."""
        random = torch.Generator().manual_seed(1)
        return torch.randn(1, CHANNELS, 1, self.side, self.side, generator=random)


DEMO, LARGER = Size(8, 8, 4, 32, 3, 512), Size(16, 20, 4, 64, 4, 1024)


def actions(start: int, stop: int) -> Tensor:
    """Keys that change, the same whenever they are asked for."""
    frames = torch.arange(start, stop)[None, :, None, None]
    return ((frames + torch.arange(6)) % 5 == 0).float().expand(1, -1, STRIDE, -1)


def latent_frames(frames: int) -> int:
    """Of a video of so many frames, whole chunks."""
    return 1 + CHUNK * -(-(frames - 1) // (STRIDE * CHUNK))


@torch.no_grad()
def streamed(size: Size, roll: Roll, frames: int, autoencoder: StackedAutoencoder) -> float:
    """Processor seconds per frame of a rollout that is decoded as it grows; the first chunks do not count."""
    decoder, rolled = StreamingDecoder(autoencoder), roll.chunks(size.first(), actions, ChunkNoise([0]))
    chunks = (latent_frames(frames) - 1) // CHUNK
    for part in islice(rolled, 3):  # these look back less
        decoder.decode(part)

    def rest() -> None:
        for part in islice(rolled, chunks - 2):
            decoder.decode(part)

    return cpu_seconds(rest) / ((chunks - 2) * CHUNK * STRIDE)


@torch.no_grad()
def cached(size: Size, roll: Roll) -> Tensor:
    """A rollout of 81 frames with its memory."""
    return roll.out(size.first(), actions(0, latent_frames(81)), ChunkNoise([0]))


@torch.no_grad()
def uncached(size: Size, roll: Roll) -> Tensor:
    """The same, the whole past computed anew at every level."""
    noise, past, lengths = ChunkNoise([0]), size.first(), [1]
    while past.shape[2] < latent_frames(81):
        drawn = noise((CHANNELS, CHUNK, size.side, size.side))
        made = roll.again(past, actions(0, past.shape[2] + CHUNK), drawn, lengths)
        past, lengths = torch.cat([past, made], dim=2), [*lengths, CHUNK]
    return past


def memory_speed(name: str, size: Size) -> Figure:
    """How much faster a rollout of 81 frames is with its memory."""
    roll = size.roll()
    apart = float((cached(size, roll) - uncached(size, roll)).abs().max())
    if apart > 1e-4:
        raise SystemExit(f"the two rollouts differ by {apart}: nothing to compare")
    found = ratios(lambda: uncached(size, roll), lambda: cached(size, roll), ROUNDS)
    words = f"at least 5; outputs differ by {apart:.1e}"
    return Figure(f"rollout of 81 frames, {name}", "a memory", "the past anew", "x as fast", found, words)


def measure() -> Iterator[Figure]:
    """The speed of a memory, and what a frame of longer rollouts costs over one of 81 frames."""
    torch.set_num_threads(1)
    yield memory_speed(f"{LARGER.side}x{LARGER.side} latents", LARGER)
    yield memory_speed("the demo's network", DEMO)
    roll, autoencoder = DEMO.roll(), StackedAutoencoder(STRIDE, 4, width=64, latent_channels=CHANNELS, blocks=3).eval()
    streamed(DEMO, roll, 81, autoencoder)
    for frames, rounds in LONGER.items():
        pairs = [streamed(DEMO, roll, count, autoencoder) for _ in range(rounds) for count in (frames, 81)]
        print(f"  {frames} frames: {1000 * pairs[0]:.2f} ms a frame; peak memory {peak_gib():.2f} GiB", flush=True)
        each = tuple(long / short for long, short in zip(pairs[::2], pairs[1::2], strict=True))
        yield Figure("cost of a frame", f"{frames} frames", "81 frames", "x", each, "0.9 to 1.1")
