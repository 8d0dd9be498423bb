"""A toy of two networks with blocks, trained in one process or spread over several; run as a script it writes what
each process ended with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from pipelines.params import AdamW, Constant, Muon, NetworkTraining, Optimizer
from pipelines.processes import leave_group
from pipelines.training.loop import train
from pipelines.training.objective import Batch, LossOutput
from pipelines.training.run import Run
from tests.training.toy import ADAMW, WIDTH, Points, ToyParams, params

MUON = Muon(name="muon", learning_rate=0.01, momentum=0.9, weight_decay=0.01, others=ADAMW)


class Block(nn.Module):
    """Shapes that two processes cannot halve: three kernels, five rows."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(WIDTH, 5), nn.Linear(5, WIDTH)
        self.kernel = nn.Conv1d(1, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.kernel(self.narrow(torch.tanh(self.wide(x)))[:, None]).mean(1)


class Stacked(nn.Module):
    """Two blocks and a head; part of it frozen, and a buffer that no state holds."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, 1)
        self.blocks[0].wide.weight.requires_grad_(False)
        self.register_buffer("gain", torch.full((1,), 2.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.gain * self.head(x)[:, 0]

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "model.safetensors")


class Pair:
    """(net(x + noise) - y)^2, and a second network that predicts the first one's error."""

    trained = ("net", "judge")
    reads = ("x", "y")

    def __init__(self, broken: bool = False) -> None:
        self.net, self.judge, self.broken = Stacked(), Stacked(), broken
        self.seen: list[list[str]] = []

    def losses(self, batch: Batch, step: int, network: str) -> dict[str, LossOutput]:
        if network == "net":
            self.seen.append(batch["key"])
        error = (self.net(batch["x"] + 0.1 * torch.randn_like(batch["x"])) - batch["y"]) ** 2
        if self.broken and step == 2 and "sample-1" in str(batch["key"]):
            error = error / 0.0
        if network == "net":
            return {"net": LossOutput(error)}
        return {"judge": LossOutput((self.judge(batch["x"]) - error) ** 2)}


def section(steps: int, optimizer: Optimizer, micro_batch: int, checkpointing: bool) -> ToyParams:
    """The second network has an optimizer of its own."""
    plain = AdamW(name="adamw", learning_rate=0.005, betas=(0.8, 0.9), weight_decay=0.1)
    own = NetworkTraining(optimizer=plain, schedule=Constant(shape="constant", warmup_steps=2))
    changes: dict[str, Any] = dict(gradient_checkpointing=checkpointing, per_network={"judge": own}, log_every=2)
    return params(steps=steps, optimizer=optimizer, micro_batch=micro_batch, validate_every=2, **changes)


def trained(folder: Path, params: ToyParams, broken: bool = False) -> tuple[Pair, Run]:
    """Train, with a validation that calls the averaged network, and write the checkpoint."""
    run = Run.open(params, {}, out=folder / "out", metrics=folder / "metrics.json", plots=folder / "plots")
    objective, points = Pair(broken), Points()
    net = objective.net

    def validate(step: int) -> dict[str, float]:
        raw = (net(points.x) - points.y).square().mean()
        with run.ema_weights("net"):
            return {"loss": float((net(points.x) - points.y).square().mean()), "raw": float(raw)}

    train(objective, points, run, validate)
    assert objective.net is net and type(net) is Stacked
    with run.ema_weights("net"), torch.no_grad():
        score = float((net(points.x) - points.y).square().mean())
    run.finish({"net": net, "judge": objective.judge}, {"score": score})
    return objective, run


def main(folder: Path, steps: int, optimizer: str, micro_batch: int, checkpointing: str, broken: str) -> None:
    """Entry point of a process."""
    block = MUON if optimizer == "muon" else ADAMW
    objective, run = trained(folder, section(steps, block, micro_batch, checkpointing == "true"), broken == "true")
    weights = {name: value.tolist() for name, value in objective.net.state_dict().items()}
    found = {"spread": run.fsdp is not None, "seen": objective.seen, "weights": weights}
    (folder / f"rank-{run.accelerator.process_index}.json").write_text(json.dumps(found))
    leave_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5], sys.argv[6])
