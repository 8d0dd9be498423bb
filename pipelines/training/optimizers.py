"""Optimizers and learning-rate schedules from their blocks of parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pipelines.params import AdamW, Muon, Optimizer, Schedule, Training
from pipelines.training.muon import Float32Muon


def factor(schedule: Schedule, step: int, steps: int) -> float:
    """Learning-rate factor of update ``step`` (from 0) out of ``steps``: warm-up, then the shape down to the floor."""
    warmup = min(1.0, (step + 1) / (schedule.warmup_steps + 1))
    share = max(0, step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
    shapes = {"constant": 1.0, "linear": 1.0 - share, "cosine": 0.5 * (1.0 + math.cos(math.pi * share))}
    return warmup * (schedule.floor + (1.0 - schedule.floor) * shapes[schedule.shape])


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Muon's domain: weights with two or more dimensions between hidden layers; embeddings and tables are not."""
    return parameter.ndim >= 2 and "embed" not in name and min(parameter.shape[0], parameter[0].numel()) > 1


class NetworkOptimizer:
    """The optimizers of one network: AdamW alone, or Muon for matrices beside AdamW for the rest.

    ``torch.optim.Muon`` takes two-dimensional weights; a convolution kernel [O, I, ...] is given to it as a view
    [O, I * ...] that shares its memory.
    """

    def __init__(self, network: nn.Module, block: Optimizer) -> None:
        named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        self.views: list[tuple[nn.Parameter, nn.Parameter]] = []
        self.optimizers: list[torch.optim.Optimizer] = []
        if isinstance(block, Muon):
            matrices = [p for name, p in named if is_hidden_matrix(name, p)]
            self.views = [(p, nn.Parameter(p.data.view(p.shape[0], -1))) for p in matrices]
            if self.views:
                flat = [view for _, view in self.views]
                kind = torch.optim.Muon if flat[0].device.type == "cuda" else Float32Muon
                self.optimizers.append(
                    kind(flat, lr=block.learning_rate, momentum=block.momentum, weight_decay=block.weight_decay)
                )
            named = [(name, p) for name, p in named if not is_hidden_matrix(name, p)]
            block = block.others
        self.plain = [p for _, p in named]
        self._add_adamw(self.plain, block)
        self.base = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    def _add_adamw(self, parameters: list[nn.Parameter], block: AdamW) -> None:
        if not parameters:
            return
        decayed = [p for p in parameters if p.ndim >= 2]
        plain = [p for p in parameters if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": block.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        filled = [group for group in groups if group["params"]]
        self.optimizers.append(torch.optim.AdamW(filled, lr=block.learning_rate, betas=block.betas))

    def step(self, scale: float) -> None:
        """One update at ``scale`` times the stated learning rates; gradients are cleared."""
        for optimizer, rates in zip(self.optimizers, self.base, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
        for parameter, view in self.views:
            view.grad = None if parameter.grad is None else parameter.grad.view_as(view)
        for optimizer in self.optimizers:
            optimizer.step()
        for parameter in self.parameters():
            parameter.grad = None

    def parameters(self) -> Iterator[nn.Parameter]:
        """The network's own parameters (not the flattened views)."""
        yield from (parameter for parameter, _ in self.views)
        yield from self.plain

    @property
    def learning_rate(self) -> float:
        """The first optimizer's current rate, for the log."""
        return float(self.optimizers[0].param_groups[0]["lr"])

    def state_dict(self) -> list[dict]:
        """State of each optimizer, in order."""
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list[dict]) -> None:
        """Restore what :meth:`state_dict` gave."""
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def scale_at(params: Training, step: int) -> float:
    """Learning-rate factor of update ``step``."""
    return factor(params.schedule, step, params.steps)
