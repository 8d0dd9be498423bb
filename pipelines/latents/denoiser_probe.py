"""How hard latents are to denoise: a fixed small denoiser, a fixed budget, its loss on held-out clips.

A generator is trained on latents, not on pixels: an autoencoder that reconstructs better can have latents that denoise
worse. The number compares autoencoders on the same clips and at the same latent shape; it says nothing by itself but
for its distance from white noise, which no network denoises below pi / 2. No stage needs it.

    reel probe checkpoints/autoencoder another/autoencoder
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipelines.flow.path import noised, velocity
from pipelines.latents.clips import Clips
from pipelines.latents.quality import psnr
from pipelines.models.autoencoder import Autoencoder, load_autoencoder
from pipelines.models.denoiser import VideoDenoiser
from pipelines.params import AdamW, Muon, ParamsError
from pipelines.stage import StageError
from pipelines.training.optimizers import NetworkOptimizer

WHITE = math.pi / 2
"""Least loss on latents without any structure: the mean over sigma in [0, 1] of 1 / (sigma^2 + (1 - sigma)^2)."""
TEXT = 8
SIGMAS = 8
"""Levels at which the held-out loss is taken, in the middle of equal parts of [0, 1]."""
MOST_CLIPS, HELD_OUT_CLIPS = 512, 96
OPTIMIZER = Muon(
    name="muon",
    learning_rate=0.02,
    momentum=0.95,
    weight_decay=0.0,
    others=AdamW(name="adamw", learning_rate=2e-3, betas=(0.9, 0.99), weight_decay=0.0),
)


@dataclass(frozen=True)
class Budget:
    """What every set of latents gets."""

    steps: int = 300
    batch_size: int = 16
    seed: int = 0


def _network(latents: Tensor) -> VideoDenoiser:
    side = [2 if length % 2 == 0 else 1 for length in latents.shape[-2:]]
    sizes = {"heads": 2, "head_dim": 32, "layers": 2, "feed_forward": 192, "text_length": 1, "text_dim": TEXT}
    return VideoDenoiser.build(channels=latents.shape[1], patch=(1, side[0], side[1]), **sizes)  # type: ignore[arg-type]


def _error(network: VideoDenoiser, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Squared error of the velocity, a scalar; no prompt."""
    prompt, mask = torch.zeros(len(latents), 1, TEXT), torch.ones(len(latents), 1, dtype=torch.bool)
    predicted = network(noised(latents, noise, sigma), sigma, prompt, mask)
    return (predicted - velocity(latents, noise)).square().mean()


def normalised(train: Tensor, held_out: Tensor) -> tuple[Tensor, Tensor]:
    """Latents [N, C, T, H, W] with mean 0 and deviation 1 per channel over ``train``.

    Raises:
        StageError: they do not vary, so that anything would foretell them, or are not finite.
    """
    mean, std = train.mean((0, 2, 3, 4), keepdim=True), train.std((0, 2, 3, 4), keepdim=True)
    if not bool(std.isfinite().all() and held_out.isfinite().all()) or not bool((std > 1e-6).any()):
        raise StageError("the latents do not vary, or are not finite: what foretells them says nothing.")
    std = std.clamp_min(1e-6)
    return (train - mean) / std, (held_out - mean) / std


def probe(train: Tensor, held_out: Tensor, budget: Budget) -> float:
    """Held-out loss of the fixed denoiser after its budget on ``train``, both [N, C, T, H, W]; the same every time."""
    train, held_out = normalised(train.float(), held_out.float())
    with torch.random.fork_rng():
        torch.manual_seed(budget.seed)
        network = _network(train)
        optimizer = NetworkOptimizer(network, OPTIMIZER)
        for step in range(budget.steps):
            rows = torch.randint(len(train), (budget.batch_size,))
            _error(network, train[rows], torch.randn_like(train[rows]), torch.rand(len(rows), 1)).backward()
            optimizer.clip(1.0, lambda optimizers: None)
            optimizer.step(min(1.0, (step + 1) / 10) * (1.0 - step / budget.steps))
        torch.manual_seed(budget.seed + 1)
        with torch.no_grad():
            network.eval()
            losses = [
                _error(network, held_out, torch.randn_like(held_out), torch.full((len(held_out), 1), level))
                for level in ((torch.arange(SIGMAS) + 0.5) / SIGMAS).tolist()
            ]
    return float(torch.stack(losses).mean())


@torch.no_grad()
def encoded(autoencoder: Autoencoder, clips: Clips, rows: Sequence[int]) -> tuple[Tensor, float]:
    """Latents of clips [N, C, T, H, W], and the PSNR of what they decode to."""
    latents, errors = [], []
    for _, video in clips.videos(rows, 8):
        latents.append(autoencoder.encode(video))
        errors.append((autoencoder.decode(latents[-1]) - video).square().mean(dim=(1, 2, 3, 4)))
    try:
        return torch.cat(latents), psnr(float(torch.cat(errors).mean()))
    except RuntimeError:
        raise StageError(f"{clips.folder}: clips of several sizes; the probe compares clips of one.") from None


@dataclass(frozen=True)
class ProbedAutoencoder:
    """Of one autoencoder."""

    name: str
    shape: tuple[int, ...]
    psnr: float
    loss: float


def measure(folder: Path, clips: Clips, budget: Budget) -> ProbedAutoencoder:
    """Probe the autoencoder of a checkpoint folder on clips of the splits train and validation.

    Raises:
        StageError: no autoencoder, or clips that do not fit it.
    """
    autoencoder = load_autoencoder(folder)
    clips.require(autoencoder.temporal_stride, autoencoder.spatial_stride)
    train, _ = encoded(autoencoder, clips, clips.rows("train")[:MOST_CLIPS])
    held_out, reached = encoded(autoencoder, clips, clips.rows("validation")[:HELD_OUT_CLIPS])
    return ProbedAutoencoder(str(folder), tuple(train.shape[1:]), reached, probe(train, held_out, budget))


def report(found: Sequence[ProbedAutoencoder]) -> str:
    """A table, the easiest to denoise first, and a line for each pair where better pixels are worse latents."""
    order = sorted(found, key=lambda one: one.loss)
    width = max(len(one.name) for one in order)
    lines = [f"{'autoencoder'.ljust(width)}  {'latents':14s}  psnr (dB)  denoising loss (white noise: {WHITE:.3f})"]
    for one in order:
        lines.append(f"{one.name.ljust(width)}  {'x'.join(map(str, one.shape)):14s}  {one.psnr:9.2f}  {one.loss:.4f}")
    lines += [
        f"{worse.name} reconstructs better than {better.name} ({worse.psnr:.2f} against {better.psnr:.2f} dB) and "
        "denoises worse."
        for at, better in enumerate(order)
        for worse in order[at + 1 :]
        if worse.psnr > better.psnr and worse.loss > better.loss
    ]
    if len({one.shape for one in order}) > 1:
        lines.append("The latents have different shapes: their losses do not compare.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 with a line on stderr when it cannot be done."""
    parser = argparse.ArgumentParser(prog="reel probe", description="How hard latents of autoencoders are to denoise.")
    parser.add_argument("autoencoder", nargs="+", type=Path, help="checkpoint folders")
    parser.add_argument("--clips", type=Path, default=Path("data/clips"), help="folder of the stage raw_video")
    parser.add_argument("--steps", type=int, default=Budget.steps, help="updates of the denoiser, for all alike")
    given = parser.parse_args(arguments)
    try:
        if given.steps < 1:
            raise ParamsError(f"--steps {given.steps}: at least 1.")
        clips = Clips(given.clips)
        print(report([measure(folder, clips, Budget(given.steps)) for folder in given.autoencoder]))
    except (StageError, ParamsError) as error:
        print(f"reel probe: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
