"""Lion: the sign of an interpolated momentum (Chen et al., "Symbolic Discovery of Optimization Algorithms")."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class LionOptimizer(torch.optim.Optimizer):
    """theta <- theta - lr (sign(b1 m + (1 - b1) g) + decay theta), then m <- b2 m + (1 - b2) g; arXiv:2302.06675.

    One buffer per weight, half of Adam's. Weight decay is decoupled.
    """

    def __init__(self, params: Iterable[Any], lr: float, betas: tuple[float, float], weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update of every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("Lion takes no closure")
        for group in self.param_groups:
            found = [parameter for parameter in group["params"] if parameter.grad is not None]
            if found:
                self._update(group, found)

    def _update(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        now, later = group["betas"]
        direction = torch._foreach_lerp(momenta, gradients, 1.0 - now)
        torch._foreach_sign_(direction)
        torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, direction, alpha=-group["lr"])
        torch._foreach_lerp_(momenta, gradients, 1.0 - later)
