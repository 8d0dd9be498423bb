"""A small regression that exercises the whole loop in a second: two networks, noise, memory of nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from pipelines.params import AdamW, Constant, Ema, Muon, Params, Training
from pipelines.training.loop import train
from pipelines.training.objective import Batch, LossOutput
from pipelines.training.run import Run

WIDTH = 6
ADAMW = AdamW(name="adamw", learning_rate=0.01, betas=(0.9, 0.99), weight_decay=0.0)


class ToyParams(Params):
    """A section with a training block and one more value."""

    training: Training
    noise: float


class Net(nn.Module):
    """Two layers and a convolution kernel's worth of shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 8)
        self.kernel = nn.Conv1d(1, 3, 3, padding=1)
        self.last = nn.Linear(24, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.first(x))
        return self.last(self.kernel(hidden[:, None]).flatten(1))[:, 0]

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"width": WIDTH}))


class Regression:
    """(net(x + noise) - y)^2, per sample."""

    trained = ("net",)
    reads = ("x", "y")

    def __init__(self, noise: float = 0.1, broken_at: int | None = None) -> None:
        self.net = Net()
        self.noise, self.broken_at = noise, broken_at
        self.seen: list[list[str]] = []

    def losses(self, batch: Batch, step: int) -> dict[str, LossOutput]:
        self.seen.append(batch["key"])
        predicted = self.net(batch["x"] + self.noise * torch.randn_like(batch["x"]))
        loss = (predicted - batch["y"]) ** 2
        if step == self.broken_at:
            loss = loss / 0.0
        return {"net": LossOutput(loss, torch.rand(len(loss)), {"error": loss.mean()})}


class Points:
    """Batches as a pure function of the step."""

    def __init__(self, batch_size: int = 8, size: int = 40) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(size, WIDTH, generator=generator)
        self.y = self.x.sum(1).sin()
        self.batch_size = batch_size

    def rows(self, step: int) -> list[int]:
        generator = torch.Generator().manual_seed(step)
        return torch.randperm(len(self.x), generator=generator)[: self.batch_size].tolist()

    def keys(self, step: int) -> list[str]:
        return [f"sample-{row}" for row in self.rows(step)]

    def read(self, step: int, start: int, stop: int) -> Batch:
        rows = self.rows(step)[start:stop]
        return {"x": self.x[rows], "y": self.y[rows], "key": self.keys(step)[start:stop]}


def params(steps: int = 10, **changes: object) -> ToyParams:
    values = dict(
        seed=1,
        steps=steps,
        batch_size=8,
        micro_batch=4,
        precision="fp32",
        gradient_checkpointing=False,
        compile=False,
        max_grad_norm=1.0,
        ema=Ema(decay=0.9, warmup_steps=2),
        optimizer=Muon(
            name="muon",
            learning_rate=0.02,
            momentum=0.95,
            weight_decay=0.0,
            others=AdamW(name="adamw", learning_rate=0.01, betas=(0.9, 0.99), weight_decay=0.0),
        ),
        schedule=Constant(shape="constant", warmup_steps=0),
        per_network=None,
        stop_when=None,
        log_every=3,
        save_every=4,
        validate_every=5,
    )
    return ToyParams(training=Training(**{**values, **changes}), noise=0.1)  # type: ignore[arg-type]


def train_toy(
    folder: Path, section: ToyParams, make: Callable[[float], Regression] = Regression
) -> tuple[Regression, Run]:
    """Train the toy in ``folder``; no checkpoint, no pictures."""
    started = Run.open(
        section, {}, out=folder / "out", metrics=folder / "metrics" / "toy.json", plots=folder / "plots" / "toy"
    )
    objective = make(section.noise)
    train(objective, Points(), started, validate=lambda step: {"loss": float(step)})
    return objective, started


def run(folder: Path, section: ToyParams, make: Callable[[float], Regression] = Regression) -> tuple[Regression, Run]:
    """Train the toy in ``folder`` and finish its checkpoint."""
    objective, started = train_toy(folder, section, make)
    started.finish({"net": objective.net}, {"score": 1.0})
    return objective, started
