"""Muon for processors: equal shapes together, in float32, or in bfloat16 where the run computes in it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pipelines.training.sharding import part_of, whole

Coefficients: TypeAlias = tuple[float, float, float]

GRAM_FROM = 2
"""Long side over short side from which iterating on the Gram matrix costs less than on the matrix."""


def orthogonalised(matrices: Tensor, coefficients: Coefficients, steps: int, eps: float) -> Tensor:
    """The Newton-Schulz iteration of Muon for a stack of matrices [N, R, C]: ``U S V^T -> U S' V^T``, S' near 1.

    X_0 = X / ||X||; A = X X^T; X <- a X + (b A + c A A) X, on the side where A is smaller. In the type of ``matrices``.

    Source: K. Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024).
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=eps)
    long = x.shape[2] >= GRAM_FROM * x.shape[1]
    # bfloat16 would round eigenvalues of the Gram matrix below zero, where the polynomial grows without bound
    x = _by_gram(x, coefficients, steps) if long and x.dtype == torch.float32 else _by_matrix(x, coefficients, steps)
    return x.mT if tall else x


def _by_matrix(x: Tensor, coefficients: Coefficients, steps: int) -> Tensor:
    a, b, c = coefficients
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _by_gram(x: Tensor, coefficients: Coefficients, steps: int) -> Tensor:
    """The same with the long side touched twice: X_k = Q_k X_0, P = a I + b A + c A A, Q <- P Q, A <- P A P.

    All are polynomials of the first A, so they commute and stay symmetric.
    """
    a, b, c = coefficients
    gram, made = x @ x.mT, None
    for step in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        made = factor if made is None else factor @ made
        if step + 1 < steps:
            gram = factor @ gram @ factor
    return x if made is None else made @ x


class Float32Muon(torch.optim.Muon):
    """``torch.optim.Muon`` with the same state, rates and shapes, which orthogonalises in float32.

    PyTorch's iterates in bfloat16, which a processor without such instructions computes about seventy times slower
    than float32, and which turns a last-bit difference of two sums into one of a percent; and one matrix at a time.
    """

    iterated = torch.float32

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update of every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("Float32Muon takes no closure")
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for shape, parameters in shapes.items():
                # a matrix that is spread over processes is orthogonalised whole, in each of them
                momenta = [whole(self._momentum(group, parameter)) for parameter in parameters]
                updates = torch.stack(momenta).to(self.iterated)
                updates = orthogonalised(updates, group["ns_coefficients"], group["ns_steps"], group["eps"])
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, updates.to(momenta[0].dtype), strict=True):
                    if decay := group["lr"] * group["weight_decay"]:
                        parameter.mul_(1.0 - decay)
                    parameter.add_(part_of(update, parameter), alpha=-rate)

    def _momentum(self, group: dict[str, Any], parameter: Tensor) -> Tensor:
        """The Nesterov momentum of a parameter, after its buffer took in the gradient."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        state["momentum_buffer"].lerp_(gradient, 1.0 - group["momentum"])
        return gradient.lerp(state["momentum_buffer"], group["momentum"])


class BFloat16Muon(Float32Muon):
    """The same in bfloat16, as PyTorch's iterates: of runs that compute in it, and of matrices spread over GPUs."""

    iterated = torch.bfloat16
