"""Tokens per second and FLOP utilisation of a Wan-1.3B-shaped denoiser: ``python -m benchmarks.gpu_training``.

Needs a GPU (bf16; checkpointing and compile on and off), each beside a bare loop of the same network, batch and
optimizer. ``--toy`` runs the same code at a size for a processor, which checks the program and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn

from benchmarks.training_loop import BenchParams, training
from pipelines.training.loop import train
from pipelines.training.memory import checkpoint_activations
from pipelines.training.objective import Batch, LossOutput
from pipelines.training.run import Run

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bf16 FLOP/s by vendor data sheet; a name that is part of the GPU's own. Others: utilisation is left out."""


@dataclass(frozen=True)
class Size:
    """A network and its batch."""

    heads: int
    layers: int
    feed_forward: int
    text: tuple[int, int]
    latents: tuple[int, int, int, int]
    batch: int

    @property
    def tokens(self) -> int:
        """Of one sample, after 1 x 2 x 2 patches."""
        _, frames, height, width = self.latents
        return frames * height * width // 4


WAN = Size(12, 30, 8960, (512, 4096), (16, 5, 60, 104), 1)
TOY = Size(2, 2, 64, (8, 32), (4, 2, 8, 8), 2)


def network(size: Size, head_dim: int) -> WanTransformer3DModel:
    """Random weights, float32."""
    return WanTransformer3DModel(
        num_attention_heads=size.heads,
        attention_head_dim=head_dim,
        in_channels=size.latents[0],
        out_channels=size.latents[0],
        text_dim=size.text[1],
        ffn_dim=size.feed_forward,
        num_layers=size.layers,
    )


def flops_per_token(size: Size, width: int) -> float:
    """Forward and backward: 3 x the products of self-attention, cross query and out, MLP; repeated ones not counted."""
    linear = size.layers * (4 * width**2 + 2 * width * size.feed_forward + 2 * width**2)
    attention = size.layers * 2 * width * (size.tokens + size.text[0])
    return 3 * 2 * (linear + attention)


class Denoise:
    """|| net(x + noise) - noise ||^2."""

    trained, reads = ("net",), ("latents",)

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def losses(self, batch: Batch, step: int) -> dict[str, LossOutput]:
        """Per sample."""
        latents = batch["latents"]
        noise = torch.randn_like(latents)
        timestep = torch.full((len(latents),), 500.0, device=latents.device)
        predicted = self.net(latents + noise, timestep, batch["text"], return_dict=False)[0]
        return {"net": LossOutput((predicted - noise).square().flatten(1).mean(1))}


class Ready:
    """Ready tensors on the device."""

    def __init__(self, size: Size, device: torch.device) -> None:
        self.batch = {
            "latents": torch.randn(size.batch, *size.latents, device=device),
            "text": torch.randn(size.batch, *size.text, device=device),
        }
        self.times: list[float] = []

    def keys(self, step: int) -> list[str]:
        """Keys of the batch."""
        return [str(index) for index in range(len(self.batch["latents"]))]

    def read(self, step: int, start: int, stop: int) -> Batch:
        """The same tensors at every step."""
        return self.batch


class Timed(Denoise):
    """Notes when each step begins, after what came before has ended."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.times: list[float] = []

    def losses(self, batch: Batch, step: int) -> dict[str, LossOutput]:
        """Per sample."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        return super().losses(batch, step)

    @property
    def step_seconds(self) -> float:
        """The median of the later half: compilation and warm-up are in the first."""
        gaps = [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]
        return statistics.median(gaps[len(gaps) // 2 :])


def ours(size: Size, head_dim: int, steps: int, checkpointing: bool, compiled: bool, precision: str) -> float:
    """Seconds per step of the project's loop."""
    changes = dict(precision=precision, gradient_checkpointing=checkpointing, compile=compiled, log_every=steps)
    block = training(steps, size.batch, **changes, save_every=10**9, validate_every=10**9)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run = Run.open(BenchParams(training=block), {}, out=place / "o", metrics=place / "m.json", plots=place / "p")
        objective = Timed(network(size, head_dim))
        train(objective, Ready(size, run.device), run)
    return objective.step_seconds


def bare(size: Size, head_dim: int, steps: int, checkpointing: bool, compiled: bool, precision: str) -> float:
    """Seconds per step of forward, backward, clip, step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = network(size, head_dim).to(device)
    if checkpointing:
        checkpoint_activations(net)
    objective, batch = Timed(net), Ready(size, device).batch
    if compiled:
        objective.net = torch.compile(net, dynamic=False)  # type: ignore[assignment]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    for step in range(steps):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = objective.losses(batch, step)["net"].loss.mean()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return objective.step_seconds


def measure_gpu(size: Size, head_dim: int, steps: int, precision: str, compiles: tuple[bool, ...]) -> list[dict]:
    """A row per combination of checkpointing and compile."""
    kind = torch.cuda.get_device_name() if torch.cuda.is_available() else "processor"
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in kind), None)
    rows = []
    for checkpointing in (False, True):
        for compiled in compiles:
            found: dict[str, float] = {}
            loops: dict[str, Callable[..., float]] = {"ours": ours, "bare": bare}
            for name, loop in loops.items():
                found[name] = loop(size, head_dim, steps, checkpointing, compiled, precision)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            tokens = size.batch * size.tokens / found["ours"]
            row = {"device": kind, "checkpointing": checkpointing, "compile": compiled, "tokens_per_second": tokens}
            row |= {"step_seconds": found["ours"], "times_bare": found["ours"] / found["bare"]}
            if peak is not None:
                row["flop_utilisation"] = tokens * flops_per_token(size, size.heads * head_dim) / peak
            rows.append(row)
    return rows


def main() -> None:
    """Measure and print a JSON row per combination."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_training", description=__doc__)
    parser.add_argument("--toy", action="store_true", help="a tiny size that a processor runs; no figure")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    if not arguments.toy and not torch.cuda.is_available():
        raise SystemExit("python -m benchmarks.gpu_training: needs a GPU; --toy runs the program without one.")
    size, head_dim = (TOY, 12) if arguments.toy else (WAN, 128)
    compiles = (False,) if arguments.toy else (False, True)
    precision = "fp32" if arguments.toy else "bf16"
    for row in measure_gpu(size, head_dim, arguments.steps, precision, compiles):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
