"""Every optimizer on DeepSpeed's flat parts in several processes, beside the same on whole weights; a script."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin
from pydantic import TypeAdapter
from torch import Tensor

from pipelines.params import Optimizer
from pipelines.processes import leave_group
from pipelines.training import zero
from pipelines.training.optimizers import NetworkOptimizer
from tests.training.spread import Stacked
from tests.training.toy import WIDTH

BATCH, ACCUMULATED, MOST = 4, 2, 0.5


def stacked() -> Stacked:
    """The same weights in every process."""
    torch.manual_seed(0)
    return Stacked()


def loss_of(network: Stacked, x: Tensor) -> Tensor:
    """Of one micro-batch [B, WIDTH]."""
    return (network(x) - x.sum(1).sin()).square().mean()


def updated(network: Stacked, optimizer: NetworkOptimizer, x: Tensor, rank: int, processes: int) -> float:
    """One update on ``x`` [processes * ACCUMULATED, B, WIDTH], of which flat parts see their process's; its norm."""
    if isinstance(optimizer, zero.ZeroOptimizer):
        for index in range(ACCUMULATED):
            loss = loss_of(network, x[index * processes + rank]) / ACCUMULATED
            optimizer.backward(loss, index == ACCUMULATED - 1)
    else:
        torch.stack([loss_of(network, one) for one in x]).mean().backward()
    norm = optimizer.clip(MOST, lambda optimizers: None)
    assert norm is not None
    optimizer.step(0.5)
    return float(norm)


def compared(block: Any, accelerator: Accelerator) -> dict[str, Any]:
    """Three updates on whole and on flat weights: largest differences, and how much this process holds."""
    plain, flat = stacked(), stacked()
    whole = NetworkOptimizer(plain, block)
    parts = zero.ZeroOptimizer(flat, block, DeepSpeedPlugin(), MOST, accelerator.device)
    rank, processes = accelerator.process_index, accelerator.num_processes
    generator, apart = torch.Generator().manual_seed(1), 0.0
    for _ in range(3):
        x = torch.randn(processes * ACCUMULATED, BATCH, WIDTH, generator=generator)
        norms = [updated(*pair, x, rank, processes) for pair in ((plain, whole), (flat, parts))]
        apart = max(apart, abs(norms[0] - norms[1]) / norms[0])
    for one, other in zip(plain.parameters(), flat.parameters(), strict=True):
        apart = max(apart, float((one - other).detach().abs().max()))
    (state,), (same,) = parts.state_dict(), whole.state_dict()
    held = sum(tensor.numel() for tensor in NetworkOptimizer.held(parts) if tensor.ndim)
    found = {"apart": apart, "held": held, "whole": sum(tensor.numel() for tensor in whole.held() if tensor.ndim)}
    found["same_form"] = state["param_groups"] == same["param_groups"] and {
        index: list(values) for index, values in state["state"].items()
    } == {index: list(values) for index, values in same["state"].items()}
    parts.release()
    fresh = [set(vars(parameter)) for parameter in stacked().parameters()]
    found["as_it_was"] = [set(vars(parameter)) for parameter in flat.parameters()] == fresh
    found["hooks"] = len(flat._forward_hooks) + len(flat._forward_pre_hooks)
    return found


def main(folder: Path, blocks: list[dict[str, Any]]) -> None:
    """Entry point of a process."""
    with zero.set_aside():
        accelerator = Accelerator()
    read = TypeAdapter(Optimizer).validate_python
    found = {block["name"]: compared(read(block), accelerator) for block in blocks}
    (folder / f"rank-{accelerator.process_index}.json").write_text(json.dumps(found))
    leave_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
