"""A world model with what it needs around it: a picture and actions go in, frames come out as they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipelines.data.actions import rows_of, stated
from pipelines.data.contract import ActionFacts
from pipelines.flow.rollout import ChunkNoise
from pipelines.generation.clip_maker import read_image
from pipelines.generation.world_model.pictures import pixels
from pipelines.models.autoencoder import load_autoencoder, require_lone_first_frame
from pipelines.models.streaming import StreamingDecoder
from pipelines.stage import StageError, digest, say
from pipelines.training.generator import Generator
from pipelines.training.world_generator import WorldGenerator

Rows = Callable[[int, int], np.ndarray]
"""(start, stop) to the raw rows [stop - start, A] of these frames; asked for once, when they are needed."""


def load_world(checkpoint: Path, device: torch.device | str, steps: int | None, sampler: str | None) -> WorldGenerator:
    """The world model in a checkpoint.

    Raises:
        StageError: it is another kind of generator.
    """
    generator = Generator.load(checkpoint, device)
    if not isinstance(generator, WorldGenerator):
        raise StageError(f"{checkpoint}: a generator of another kind; `reel generate` samples it.")
    return generator.with_sampling(steps, None, sampler)


class Player:
    """Plays a world model from a picture.

    Raises:
        StageError: the autoencoder is not the one that the network was trained with, or cannot take a lone picture or
            decode a video as it grows.
    """

    def __init__(self, world: WorldGenerator, autoencoder: Path, image: Path) -> None:
        self.world, self.image = world, image
        world.require_autoencoder(digest(autoencoder), str(autoencoder))
        self.autoencoder = load_autoencoder(autoencoder).to(world.device)
        require_lone_first_frame(self.autoencoder, "--image")
        StreamingDecoder(self.autoencoder)
        side = self.autoencoder.spatial_stride
        self.height, self.width = (size * side for size in world.shape[2:])
        self.first = self._first()

    @property
    def facts(self) -> ActionFacts:
        """Of the actions that the network was trained on."""
        return stated(self.world.facts["actions"])

    @property
    def frame_rate(self) -> float:
        """Frames per second of the clips it was trained on."""
        return float(self.world.facts["frame_rate"])

    @property
    def chunk_frames(self) -> int:
        """Frames that are made at once."""
        return self.world.rolling.chunk * self.autoencoder.temporal_stride

    def _first(self) -> Tensor:
        from PIL import Image

        picture = read_image(self.image, self.height, self.width)
        with Image.open(self.image) as file:
            width, height = file.size
        if (height, width) != (self.height, self.width):
            say(
                f"{self.image}: {width}x{height} pixels, scaled and cropped to the network's {self.width}x{self.height}"
            )
        return self.autoencoder.encode(picture.to(self.world.device))

    def play(self, rows: Rows, seed: int) -> Iterator[np.ndarray]:
        """Frames uint8 [n, H, W, 3] as they are made, without end: the picture alone, then chunk after chunk.

        Memory is constant: of the actions only those that a chunk sees are kept, of the past what the network needs.
        """
        stride, history = self.autoencoder.temporal_stride, self.world.history
        known = np.zeros((0, len(self.facts.names)), np.float32)
        begin = 0  # frame of the first known row

        def held(start: int, stop: int) -> Tensor:
            nonlocal known, begin
            wanted = rows_of(range(start, stop), stride, history)
            last = begin + len(known)
            if wanted.max() >= last:
                known = np.concatenate([known, rows(last, int(wanted.max()) + 1)])
            known, begin = known[max(0, int(wanted.min()) - begin) :], max(begin, int(wanted.min()))
            return torch.from_numpy(known[wanted - begin])[None].to(self.first.device)

        decoder = StreamingDecoder(self.autoencoder)
        for part in self.world.rolling.chunks(self.first, held, ChunkNoise([seed])):
            yield pixels(decoder.decode(part))[0]
