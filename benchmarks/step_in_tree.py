"""A training step of rectified_flow at the demo's size, measured by a tree's own code: ``python step_in_tree.py``.

Run with the tree as current folder and on PYTHONPATH; it knows the names that its parts had in each commit that is
compared (:mod:`benchmarks.hot_step`). Prints JSON: milliseconds of each of its rounds by part, what the parts compute
in GFLOP, and the GFLOP/s that this thread reaches on a large product in the step's arithmetic.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipelines.generation.params import RectifiedFlowParams
from pipelines.generation.rectified_flow import RectifiedFlow
from pipelines.models.denoiser import VideoDenoiser
from pipelines.training import optimizers, precision

ROUNDS = 25
CLIPS, PROMPT = (16, 16, 5, 8, 8), (16, 18, 128)
"""Shapes of the demo's latents and prompts: a batch."""
SIDE = 2048


def milliseconds(call: Callable[[], Any]) -> float:
    """Of this thread's processor time."""
    began = time.thread_time()
    call()
    return 1e3 * (time.thread_time() - began)


def gflop_of_muon(network: nn.Module, steps: int = 5) -> float:
    """Of Newton-Schulz iterations on the matrices themselves: 2 m^2 n each for A and for B X, 2 m^3 for A A."""
    matrices = [p.flatten(1).shape for p in network.parameters() if p.ndim >= 2 and min(p.flatten(1).shape) > 1]
    return sum(steps * (4 * min(s) ** 2 * max(s) + 2 * min(s) ** 3) for s in matrices) / 1e9


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    params = RectifiedFlowParams.model_validate(yaml.safe_load(Path("params.yaml").read_text())["rectified_flow"])
    device = torch.device("cpu")
    kind = precision.resolved(params.training.precision, device)
    network = VideoDenoiser.build(channels=CLIPS[1], text_dim=PROMPT[2], **params.denoiser.model_dump())
    block = params.training.optimizer
    told = (kind,) if "precision" in optimizers.NetworkOptimizer.__init__.__annotations__ else ()
    optimizer = optimizers.NetworkOptimizer(network, block, *told)
    objective = RectifiedFlow(network, params.draw, params.prompt_dropout, torch.zeros(1, PROMPT[2]), lambda _: 80)
    batch = {
        "latents": torch.randn(CLIPS),
        "prompt_embeds": torch.randn(PROMPT),
        "prompt_mask": torch.ones(PROMPT[:2], dtype=torch.bool),
        "draw": torch.arange(CLIPS[0]),
    }
    computing = getattr(precision, "computing", lambda *_: contextlib.nullcontext())

    def forward() -> torch.Tensor:
        with computing(kind, device):
            return objective.losses(batch, 0)["denoiser"].loss.mean()

    def update() -> None:
        optimizer.clip(1.0, lambda _: None)
        optimizer.step(1.0)

    rounds: dict[str, list[float]] = {"forward": [], "backward": [], "update": []}
    for number in range(ROUNDS + 3):
        found: list[torch.Tensor] = []
        spent = (
            milliseconds(lambda found=found: found.append(forward())),
            milliseconds(lambda found=found: found[0].backward()),
            milliseconds(update),
        )
        if number >= 3:
            for part, value in zip(rounds, spent, strict=True):
                rounds[part].append(value)
    with FlopCounterMode(display=False) as counter:
        objective.losses(batch, 0)
    computed = counter.get_total_flops() / 1e9
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    left, right = torch.randn(SIDE, SIDE).to(dtype), torch.randn(SIDE, SIDE).to(dtype)
    fastest = min(milliseconds(lambda: left @ right) for _ in range(5))
    work = {"forward": computed, "backward": 2.0 * computed, "update": gflop_of_muon(network)}
    print(json.dumps({"kind": kind, "ms": rounds, "gflop": work, "peak": 2.0 * SIDE**3 / fastest / 1e6}))


if __name__ == "__main__":
    main()
