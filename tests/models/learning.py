"""What two ways of computing a network have in common: what they say, and what they learn."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipelines.training.precision import computing


def told(network: nn.Module, call: Callable[[], Tensor], precision: str) -> tuple[Tensor, Tensor]:
    """What is said, and the gradients of all weights side by side."""
    network.zero_grad()
    with computing(precision, torch.device("cpu")):
        said = call().float()
    (said * torch.linspace(-1.0, 1.0, said.numel()).view(said.shape)).sum().backward()
    return said.detach(), torch.cat([parameter.grad.flatten() for parameter in network.parameters()])  # type: ignore[union-attr]


def difference(found: Tensor, wanted: Tensor) -> float:
    """Length of the difference, as a share of what is wanted."""
    return float((found - wanted).norm() / wanted.norm())
