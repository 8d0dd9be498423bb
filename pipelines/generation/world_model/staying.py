"""Rollouts of held-out first frames, in pixels: do they come back, how far are they off, can their chunks be seen?"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.data.actions import aligned
from pipelines.flow.rollout import ChunkNoise
from pipelines.generation.latents import Latents
from pipelines.generation.world_model.excursions import excursions, opposites
from pipelines.generation.world_model.objective import WorldModelObjective, roll_of
from pipelines.generation.world_model.pictures import pixels
from pipelines.generation.world_model.reader import Examples
from pipelines.generation.world_model.recorded import Measured, quarters
from pipelines.models.autoencoder import Autoencoder
from pipelines.models.streaming import decoded_in_pieces

RETURN, ERROR, SEAM = "rollout/return_distance", "rollout/error", "rollout/seam_ratio"
SPEED = "throughput/frames_per_second"


@dataclass(frozen=True)
class Rolling:
    """What a rollout is made and looked at with."""

    data: Latents
    objective: WorldModelObjective
    decoder: Autoencoder
    device: torch.device

    @property
    def stride(self) -> int:
        """Raw frames per latent frame."""
        return self.data.manifest.autoencoder.temporal_stride

    @property
    def leg(self) -> int:
        """Raw frames of a chunk: as long as an excursion goes out, and comes back."""
        return self.stride * self.objective.params.window.target_frames

    def held(self, rows: np.ndarray) -> Tensor:
        """Raw rows [N, T, A] as latent frames see them."""
        history = self.objective.params.denoiser.actions.history
        return aligned(torch.from_numpy(rows), self.stride, history).to(self.device)

    def rolled(self, first: Tensor, rows: np.ndarray) -> Tensor:
        """Latents [N, C, T, H, W] from the first frames [N, C, 1, H, W] under raw rows; noise of clip n is seed n."""
        return self.objective.rolled(first.to(self.device), self.held(rows), seeds=range(len(first))).cpu()

    def decoded(self, latents: Tensor) -> np.ndarray:
        """Frames uint8 [N, T, H, W, 3]."""
        clips = (
            [pixels(piece) for piece in decoded_in_pieces(self.decoder, one[None].to(self.device))] for one in latents
        )
        return np.concatenate([np.concatenate(pieces, axis=1) for pieces in clips])

    def excursions(self, clips: int, frames: int) -> np.ndarray:
        """Rows [clips, frames, A] that go out and come back, a chunk each way, every clip's own."""
        facts = self.data.manifest.actions
        assert facts is not None
        return np.stack([excursions(facts, frames, self.leg, seed) for seed in range(clips)])


def returned(found: Measured, rolling: Rolling, first: Tensor, video: np.ndarray, resamples: int) -> None:
    """Every excursion of ``video`` against its own start; beside it, the first one held still on its way back."""
    facts, leg = rolling.data.manifest.actions, rolling.leg
    assert facts is not None
    if opposites(facts) is None:
        found.unavailable[RETURN] = "not every key has an opposite"
        return
    turn, back = away(video, leg)
    found.ratio(RETURN, back, turn, resamples)
    for quarter, part in quarters(back.shape[1]):
        found.ratio(f"{RETURN}/{quarter}", back[:, part], turn[:, part], resamples)
    rows = rolling.excursions(len(first), 1 + 2 * leg)
    rows[:, 1 + leg :] = 0
    turn, back = away(rolling.decoded(rolling.rolled(first, rows)), leg)
    found.ratio(f"{RETURN}_still", back, turn, resamples)


def away(video: np.ndarray, leg: int) -> tuple[Tensor, Tensor]:
    """Mean absolute difference [N, excursions] to an excursion's first frame: at its turn, and when it is back."""
    starts = range(0, video.shape[1] - 2 * leg, 2 * leg)

    def distance(frame: int, start: int) -> np.ndarray:
        return np.abs(video[:, frame].astype(np.int16) - video[:, start]).mean((1, 2, 3))

    turns, backs = ([distance(start + ahead, start) for start in starts] for ahead in (leg, 2 * leg))
    shape = (len(starts), len(video))
    return torch.tensor(np.array(turns).reshape(shape)).T, torch.tensor(np.array(backs).reshape(shape)).T


def horizon(found: Measured, rolling: Rolling, real: Examples, resamples: int) -> None:
    """Squared error of decoded frames to real clips with their own actions, by latent frame, beside standing still."""
    stride = rolling.stride
    rows = torch.cat([real.held[:, :1, -1], real.held[:, 1:].flatten(1, 2)], dim=1)
    made = rolling.rolled(real.latents[:, :, :1], rows.numpy())
    true, rolled = (torch.from_numpy(rolling.decoded(one)).float() / 255 for one in (real.latents, made))
    ways = {ERROR: rolled, f"{ERROR}_frozen": true[:, :1].expand_as(true)}
    for frame in range(stride, stride * made.shape[2] - stride + 1, stride):
        part = slice(1 + frame - stride, 1 + frame)
        for name, video in ways.items():
            error = (video - true)[:, part].square().mean((1, 2, 3, 4))
            found.interval(f"{name}/frame_{frame}", error, resamples)


def seams(found: Measured, made: np.ndarray, real: np.ndarray, leg: int, resamples: int) -> None:
    """Change from frame to frame where chunks of ``leg`` frames meet, over the change elsewhere; whole and by quarter.

    Beside it that of real clips, decoded from latents of several frames each, which meet there too.
    """
    for name, video in ((SEAM, made), ("reader/seam_ratio_real", real)):
        change = torch.from_numpy(np.abs(video[:, 1:].astype(np.int16) - video[:, :-1]).mean((2, 3, 4)))
        _seam(found, name, change, np.arange(change.shape[1]), leg, resamples)
        for quarter, part in quarters(change.shape[1]) if name == SEAM else ():
            _seam(found, f"{name}/{quarter}", change, part, leg, resamples)


def _seam(found: Measured, name: str, change: Tensor, part: np.ndarray, leg: int, resamples: int) -> None:
    """Of these steps; the first of all is none, which follows a picture alone."""
    borders, inside = part[(part % leg == 0) & (part > 0)], part[part % leg > 0]
    if not len(borders):
        found.unavailable[name] = "no two chunks meet there"
        return
    found.ratio(name, change[:, borders] / len(borders), change[:, inside] / len(inside), resamples)


def speed(found: Measured, rolling: Rolling, first: Tensor, rows: np.ndarray) -> None:
    """Frames a second of one clip alone, made and decoded, by quarter of the rollout."""
    held, roll = rolling.held(rows[:1]), roll_of(rolling.objective.world_model, rolling.objective.params)
    chunks = roll.chunks(first[:1].to(rolling.device), lambda start, stop: held[:, start:stop], ChunkNoise([0]))
    count = (held.shape[1] - 1) // roll.chunk
    next(chunks)
    took = [_seconds(lambda: rolling.decoded(next(chunks).cpu())) for _ in range(count)]
    for quarter, part in quarters(count):
        found.numbers[f"{SPEED}/{quarter}"] = len(part) * rolling.leg / max(sum(took[n] for n in part), 1e-9)


def _seconds(make: Callable[[], object]) -> float:
    began = time.perf_counter()
    make()
    return time.perf_counter() - began
