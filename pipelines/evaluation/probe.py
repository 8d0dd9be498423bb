"""Readers of known factors, trained on real clips: what a sample shows, against what its prompt says.

What single frames show (shape, colour, background) is read frame by frame in decoded video and averaged over frames;
what only the course of a clip shows (direction, speed) is read in latents. The accuracy on real held-out clips is the
ceiling of every agreement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines import stage
from pipelines.evaluation.params import ReaderTraining
from pipelines.evaluation.video_metrics import values
from pipelines.threads import threads_for
from pipelines.training.precision import computing

FRAMES_READ = 5
LATENT_NOISE = 0.05
"""Standard deviation of noise added to training latents (theirs is 1)."""


@dataclass(frozen=True)
class Labels:
    """Known factors of some clips as integers; ``values[name]`` are the words."""

    values: Mapping[str, tuple[str, ...]]
    index: Mapping[str, Tensor]

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[str]]) -> Labels:
        """From words per factor, in alphabetical order."""
        values = {name: tuple(sorted(set(words))) for name, words in columns.items()}
        index = {name: torch.tensor([values[name].index(word) for word in words]) for name, words in columns.items()}
        return cls(values, index)

    def rows(self, rows: Tensor) -> dict[str, Tensor]:
        """The labels of some clips."""
        return {name: index[rows] for name, index in self.index.items()}


def _heads(width: int, labels: Labels) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(width, len(words)) for name, words in labels.values.items()})


class FrameReader(nn.Module):
    """Factors that one frame [B, 3, H, W] shows: four convolutions, the strongest response anywhere, a head each.

    Channels lie last in memory: on a processor a step takes two thirds of the time.
    """

    def __init__(self, width: int, labels: Labels) -> None:
        super().__init__()
        sizes, layers = (3, width, 2 * width, 2 * width, 2 * width), []
        for number in range(4):
            kernel, stride = (5, 2) if number == 0 else (3, 2 if number < 3 else 1)
            convolution = nn.Conv2d(sizes[number], sizes[number + 1], kernel, stride, kernel // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(sizes[number + 1]), nn.GELU()]
        self.features = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.heads = _heads(2 * width, labels)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Logits [B, values] per factor."""
        features = self.features(frames.contiguous(memory_format=torch.channels_last))
        return {name: head(features) for name, head in self.heads.items()}


class ClipReader(nn.Module):
    """Factors that the course of a clip shows, from latents [B, C, T, H, W]: frames side by side as channels."""

    def __init__(self, shape: Sequence[int], width: int, labels: Labels) -> None:
        super().__init__()
        channels, frames, height, rest = shape
        self.features = nn.Sequential(
            nn.Conv2d(channels * frames, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Dropout(0.3),
        )
        self.heads = _heads(width * ((height + 1) // 2) * ((rest + 1) // 2), labels)

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        """Logits [B, values] per factor."""
        features = self.features(latents.flatten(1, 2))
        return {name: head(features) for name, head in self.heads.items()}


# ---- training -----------------------------------------------------------------------------------------------------


def _fit(
    reader: nn.Module,
    draw: Callable[[Tensor], Tensor],
    labels: Labels,
    params: ReaderTraining,
    unit: str,
    precision: str,
) -> None:
    """Minimise the summed cross-entropy of all factors over random training clips."""
    count = len(next(iter(labels.index.values())))
    optimizer = torch.optim.AdamW(reader.parameters(), lr=params.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, params.learning_rate, total_steps=params.steps)
    for step in range(params.steps):
        rows = torch.randint(count, (params.batch_size,))
        shown, wanted = draw(rows), labels.rows(rows)
        with computing(precision, shown.device):
            logits = reader(shown)
        loss = torch.stack([functional.cross_entropy(logits[name].float(), wanted[name]) for name in wanted]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        stage.report(step + 1, params.steps, unit, loss=float(loss.detach()))
    reader.eval().requires_grad_(False)


def train_frame_reader(
    video: Tensor, labels: Labels, params: ReaderTraining, seed: int, precision: str = "fp32"
) -> FrameReader:
    """From real clips [N, 3, T, H, W], uint8 or in [-1, 1]: a random frame of each, mirrored half of the time."""

    def draw(rows: Tensor) -> Tensor:
        frames = values(video[rows, :, torch.randint(video.shape[2], (len(rows),))])
        return torch.where((torch.rand(len(rows)) < 0.5)[:, None, None, None], frames.flip(3), frames)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = FrameReader(params.width, labels)
        with threads_for(params.batch_size * video.shape[-2] * video.shape[-1]):
            _fit(reader, draw, labels, params, "frame reader step", precision)
    return reader


def train_clip_reader(latents: Tensor, labels: Labels, params: ReaderTraining, seed: int) -> ClipReader:
    """From the latents [N, C, T, H, W] of real clips, with a little noise."""

    def draw(rows: Tensor) -> Tensor:
        return latents[rows] + LATENT_NOISE * torch.randn(len(rows), *latents.shape[1:])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = ClipReader(latents.shape[1:], params.width, labels)
        _fit(reader, draw, labels, params, "clip reader step", "fp32")
    return reader


# ---- reading ------------------------------------------------------------------------------------------------------


def read_frames(reader: FrameReader, video: Tensor) -> dict[str, Tensor]:
    """The value [N] that is most likely over a few frames of clips [N, 3, T, H, W]."""
    places = torch.linspace(0, video.shape[2] - 1, FRAMES_READ).round().long().unique()
    found: dict[str, list[Tensor]] = {}
    for part in video.split(64):
        logits = [reader(values(part[:, :, place])) for place in places.tolist()]
        for name in logits[0]:
            likely = torch.stack([frame[name].float().log_softmax(1) for frame in logits]).sum(0)
            found.setdefault(name, []).append(likely.argmax(1))
    return {name: torch.cat(parts) for name, parts in found.items()}


def read_clips(reader: ClipReader, latents: Tensor) -> dict[str, Tensor]:
    """The most likely value [N] per factor of latents [N, C, T, H, W]."""
    return {name: logits.argmax(1) for name, logits in reader(latents).items()}


@dataclass(frozen=True)
class Probe:
    """Both readers; either is None where there are no such factors. ``precision`` is that of frames: fp32 or bf16."""

    frames: FrameReader | None
    clips: ClipReader | None
    values: Mapping[str, tuple[str, ...]]
    precision: str = "fp32"

    def read(self, latents: Tensor, video: Tensor) -> dict[str, list[str]]:
        """What each clip shows, in words, factor by factor."""
        seen: dict[str, Tensor] = {}
        if self.frames is not None:
            with computing(self.precision, video.device):
                seen |= read_frames(self.frames, video)
        if self.clips is not None:
            seen |= read_clips(self.clips, latents)
        return {name: [self.values[name][index] for index in indices.tolist()] for name, indices in seen.items()}
