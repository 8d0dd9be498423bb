"""Exponential moving average of weights, in float32 whatever the training precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from pipelines.params import Ema as EmaParams
from pipelines.training.sharding import local, part_of, settle


class Ema:
    """theta_ema <- d theta_ema + (1 - d) theta, with d = min(decay, (1 + step) / (warmup_steps + step)).

    A bf16 average with decay 0.9999 loses its updates (seed B, fault 3): averages stay float32.
    """

    def __init__(self, network: nn.Module, params: EmaParams) -> None:
        self.params = params
        self.network = network
        self.weights = {name: p.detach().float().clone() for name, p in self._trained()}

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Frozen weights are their own average."""
        return ((name, p) for name, p in self.network.named_parameters() if p.requires_grad)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update number ``step`` (from 1)."""
        decay = min(self.params.decay, (1 + step) / (self.params.warmup_steps + step))
        averages, weights = [], []
        for name, parameter in self._trained():
            averages.append(local(self.weights[name]))
            weights.append(local(parameter.detach()).float())
        torch._foreach_lerp_(averages, weights, 1.0 - decay)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from these whole averages."""
        own = dict(self._trained())
        self.weights = {name: part_of(weights[name].to(own[name].device), own[name]) for name in own}

    @contextlib.contextmanager
    @torch.no_grad()
    def swapped(self) -> Iterator[nn.Module]:
        """Inside, the network carries the averaged weights."""
        settle(self.network)
        trained = {name: p.detach().clone() for name, p in self._trained()}
        try:
            self._put(self.weights)
            yield self.network
        finally:
            self._put(trained)

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        settle(self.network)
        for name, parameter in self._trained():
            parameter.copy_(weights[name])
