"""What the loop costs over the shortest loop that trains the same: same network, batches, optimizer, clipping."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.paired import Figure, ratios
from pipelines.params import AdamW, Constant, Params, Training
from pipelines.training.loop import train
from pipelines.training.objective import Batch, LossOutput
from pipelines.training.run import Run

STEPS, BATCH, ROUNDS = 60, 16, 7


class BenchParams(Params):
    """A section with nothing but training."""

    training: Training


def block(width: int, depth: int) -> nn.Module:
    """A stack of transformer layers over 80 tokens, as wide as the demo's denoiser or the smallest one."""
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


class Tokens:
    """Ready tensors, so that only the loop differs."""

    def __init__(self, width: int) -> None:
        self.latents = torch.randn(BATCH, 80, width)

    def keys(self, step: int) -> list[str]:
        """Keys of the batch."""
        return [str(index) for index in range(BATCH)]

    def read(self, step: int, start: int, stop: int) -> Batch:
        """The same tensors at every step."""
        return {"latents": self.latents[start:stop]}


class Denoise:
    """|| net(x + noise) - noise ||^2."""

    trained, reads = ("net",), ("latents",)

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def losses(self, batch: Batch, step: int) -> dict[str, LossOutput]:
        """Per sample."""
        noise = torch.randn_like(batch["latents"])
        error = (self.net(batch["latents"] + noise) - noise) ** 2
        return {"net": LossOutput(error.flatten(1).mean(1))}


def ours(width: int, depth: int) -> Callable[[], None]:
    """The project's loop: accelerate, rows, reports, state, finite checks."""
    adamw = AdamW(name="adamw", learning_rate=1e-4, betas=(0.9, 0.999), weight_decay=0.01)
    training = Training(
        seed=0,
        steps=STEPS,
        batch_size=BATCH,
        micro_batch=BATCH,
        precision="fp32",
        gradient_checkpointing=False,
        compile=False,
        max_grad_norm=1.0,
        ema=None,
        optimizer=adamw,
        schedule=Constant(shape="constant", warmup_steps=0),
        per_network=None,
        stop_when=None,
        log_every=20,
        save_every=STEPS,
        validate_every=STEPS,
    )
    tokens = Tokens(width)

    def call() -> None:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            run = Run.open(
                BenchParams(training=training), {}, out=place / "out", metrics=place / "m.json", plots=place / "plots"
            )
            train(Denoise(block(width, depth)), tokens, run)

    return call


def bare(width: int, depth: int) -> Callable[[], None]:
    """Forward, backward, clip, step."""
    tokens = Tokens(width)

    def call() -> None:
        objective = Denoise(block(width, depth))
        optimizer = torch.optim.AdamW(objective.net.parameters(), lr=1e-4, weight_decay=0.01)
        for step in range(STEPS):
            loss = objective.losses(tokens.read(step, 0, BATCH), step)["net"].loss.mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(objective.net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return call


def measure() -> list[Figure]:
    """Overhead on the demo's denoiser and on the smallest network."""
    torch.set_num_threads(1)
    figures = []
    for name, width, depth, target in (("the demo's denoiser", 128, 4, 1.02), ("the smallest", 64, 2, 1.05)):
        found = ratios(ours(width, depth), bare(width, depth), ROUNDS)
        figures.append(
            Figure(
                f"loop overhead, {name}",
                f"{STEPS} steps of the loop with one saved state",
                "a bare PyTorch loop",
                "x processor time",
                found,
                f"target at most {target}",
            )
        )
    return figures
