"""What the loop costs over the shortest loop that trains the same: same network, batches, optimizer, clipping."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.paired import Figure, ratios, seconds
from pipelines.params import AdamW, Constant, Params, Training
from pipelines.training.loop import train
from pipelines.training.objective import Batch, LossOutput
from pipelines.training.run import Run
from pipelines.training.tracking import read_rows

STEPS, BATCH, ROUNDS = 60, 16, 5
CADENCE = 400
"""Steps between saved states of the demo's generators."""


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


def training(steps: int, batch: int, **changes: Any) -> Training:
    """The block of a measured run: float32, AdamW, nothing that a bare loop lacks, one state at the end."""
    plain = dict(
        seed=0,
        steps=steps,
        batch_size=batch,
        micro_batch=batch,
        precision="fp32",
        gradient_checkpointing=False,
        compile=False,
        max_grad_norm=1.0,
        ema=None,
        optimizer=AdamW(name="adamw", learning_rate=1e-4, betas=(0.9, 0.999), weight_decay=0.01),
        schedule=Constant(shape="constant", warmup_steps=0),
        per_network=None,
        stop_when=None,
        log_every=20,
        save_every=steps,
        validate_every=steps,
    )
    return Training.model_validate({**plain, **changes})


def trained(folder: Path, width: int, depth: int, save_every: int = STEPS) -> Run:
    """A run of the project's loop: accelerate, rows, reports, state, finite checks."""
    section = BenchParams(training=training(STEPS, BATCH, save_every=save_every))
    run = Run.open(section, {}, out=folder / "out", metrics=folder / "m.json", plots=folder / "plots")
    train(Denoise(block(width, depth)), Tokens(width), run)
    return run


def ours(width: int, depth: int, save_every: int = STEPS) -> Callable[[], None]:
    """The project's loop in a new folder."""

    def call() -> None:
        with tempfile.TemporaryDirectory() as folder:
            trained(Path(folder), width, depth, save_every)

    return call


def bare(width: int, depth: int) -> Callable[[], None]:
    """Forward, backward, clip, step; the optimizer is the fused one, as in the project."""
    tokens = Tokens(width)

    def call() -> None:
        objective = Denoise(block(width, depth))
        optimizer = torch.optim.AdamW(objective.net.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
        for step in range(STEPS):
            loss = objective.losses(tokens.read(step, 0, BATCH), step)["net"].loss.mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(objective.net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return call


def overhead() -> Iterator[Figure]:
    """On the demo's denoiser and on the smallest network."""
    for name, width, depth, target in (("the demo's denoiser", 128, 4, 1.02), ("the smallest", 64, 2, 1.05)):
        found = ratios(ours(width, depth), bare(width, depth), ROUNDS)
        yield Figure(
            f"loop overhead, {name}",
            f"{STEPS} steps of the loop with one saved state",
            "a bare PyTorch loop",
            "x processor time",
            found,
            f"target at most {target}",
        )


def saving() -> Figure:
    """What a state costs: a run that saves six times against one that saves once, in steps of the demo's denoiser."""
    often, once = ours(128, 4, STEPS // 6), ours(128, 4)
    found = ratios(often, once, ROUNDS, seconds)
    per_save = tuple((ratio - 1.0) * STEPS / 5 for ratio in found)
    return Figure(
        "one saved state",
        "the loop saving every tenth step",
        "the loop saving once",
        "steps of time each",
        per_save,
        f"at most 2: below 1 % of a step at the demo's cadence of {CADENCE}",
    )


def waiting() -> Figure:
    """Share of a run's time that it waited for data."""
    shares = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            run = trained(Path(folder), 128, 4)
            rows = [row for row in read_rows(run.work / "rows.jsonl") if "data/wait_share" in row]
            shares.append(sum(row["data/wait_share"] for row in rows) / len(rows))
    return Figure("wait for data", "the loop's reader", "the whole run", "of its time", tuple(shares), "below 0.01")


def resuming() -> Figure:
    """From opening a finished run to its restored state, against a new run's start: state read and checked."""
    with tempfile.TemporaryDirectory() as folder:
        trained(Path(folder), 128, 4)
        step = seconds(ours(128, 4)) / STEPS
        found = tuple(seconds(lambda: trained(Path(folder), 128, 4)) / step for _ in range(ROUNDS))
    return Figure("resume", "open, restore and check a state", "one step", "steps of time", found, "at most 10")


def measure() -> Iterator[Figure]:
    """Overhead, saving, waiting, resuming; start-up of a launched process is in `startup`."""
    torch.set_num_threads(1)
    yield from overhead()
    yield saving()
    yield waiting()
    yield resuming()
