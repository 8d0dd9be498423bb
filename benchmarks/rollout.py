"""Rollouts of the world model: cost per frame at 81, 810 and 8,100 frames, and cached over uncached at 81.

On a network of the demo's size with random weights and a random autoencoder: time does not depend on what they hold.
Both ways must give the same latents.
"""

from __future__ import annotations

from collections.abc import Iterator
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

CHANNELS, SIDE, CHUNK, STRIDE = 16, 8, 2, 4
LONGER, ROUNDS = {810: 3, 8100: 1}, 3
"""Frames of longer rollouts, and how often each is timed; rounds of the comparison of 81 frames."""
SAMPLING = Sampling(sampler="euler", steps=8, shift=3.0, guidance=None)


def network() -> WorldModel:
    """Of the demo's size, with random weights, so that velocities are not zero."""
    torch.manual_seed(0)
    action = {"hidden": 32, "inner": 128, "heads": 4, "rotary": 8}
    inputs = Inputs(CHANNELS, 1, POSITION_CHANNELS, "patches", (0, 1, 2, 3), (4, 5), STRIDE, action, 1, 2)
    model = WorldModel.build(inputs, heads=4, head_dim=32, layers=3, feed_forward=512, patch=(1, 2, 2))
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.05)
    return model.eval()


def actions(start: int, stop: int) -> Tensor:
    """Keys that change, the same whenever they are asked for."""
    frames = torch.arange(start, stop)[None, :, None, None]
    return ((frames + torch.arange(6)) % 5 == 0).float().expand(1, -1, STRIDE, -1)


def first() -> Tensor:
    """A first latent frame."""
    return torch.randn(1, CHANNELS, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def latent_frames(frames: int) -> int:
    """Of a video of so many frames, whole chunks."""
    return 1 + CHUNK * -(-(frames - 1) // (STRIDE * CHUNK))


@torch.no_grad()
def streamed(roll: Roll, frames: int, autoencoder: StackedAutoencoder) -> float:
    """Processor seconds per frame of a rollout that is decoded as it grows; the first chunks do not count."""
    decoder, rolled = StreamingDecoder(autoencoder), roll.chunks(first(), actions, ChunkNoise([0]))
    chunks = (latent_frames(frames) - 1) // CHUNK
    for part in islice(rolled, 3):  # these look back less
        decoder.decode(part)

    def rest() -> None:
        for part in islice(rolled, chunks - 2):
            decoder.decode(part)

    return cpu_seconds(rest) / ((chunks - 2) * CHUNK * STRIDE)


@torch.no_grad()
def cached(roll: Roll) -> Tensor:
    """A rollout of 81 frames with its memory."""
    return roll.out(first(), actions(0, latent_frames(81)), ChunkNoise([0]))


@torch.no_grad()
def uncached(roll: Roll) -> Tensor:
    """The same, the whole past computed anew at every level."""
    noise, past, lengths = ChunkNoise([0]), first(), [1]
    while past.shape[2] < latent_frames(81):
        drawn = noise((CHANNELS, CHUNK, SIDE, SIDE))
        made = roll.again(past, actions(0, past.shape[2] + CHUNK), drawn, lengths)
        past, lengths = torch.cat([past, made], dim=2), [*lengths, CHUNK]
    return past


def measure() -> Iterator[Figure]:
    """The speed of a memory, and what a frame of longer rollouts costs over one of 81 frames."""
    torch.set_num_threads(1)
    roll = Roll(network(), Memory, SAMPLING, CHUNK, remembers=True)
    apart = float((cached(roll) - uncached(roll)).abs().max())
    if apart > 1e-4:
        raise SystemExit(f"the two rollouts differ by {apart}: nothing to compare")
    found = ratios(lambda: uncached(roll), lambda: cached(roll), ROUNDS)
    words = f"at least 5; outputs differ by {apart:.1e}"
    yield Figure("rollout of 81 frames", "a memory", "the past anew at every level", "x as fast", found, words)
    autoencoder = StackedAutoencoder(frames=STRIDE, patch=4, width=64, latent_channels=CHANNELS, blocks=3).eval()
    streamed(roll, 81, autoencoder)
    for frames, rounds in LONGER.items():
        pairs = [(streamed(roll, frames, autoencoder), streamed(roll, 81, autoencoder)) for _ in range(rounds)]
        print(f"  {frames} frames: {1000 * pairs[0][0]:.2f} ms a frame; peak memory {peak_gib():.2f} GiB", flush=True)
        each = tuple(long / short for long, short in pairs)
        yield Figure("cost of a frame", f"{frames} frames", "81 frames", "x", each, "0.9 to 1.1")
