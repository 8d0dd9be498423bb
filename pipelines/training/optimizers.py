"""Optimizers of a network from its block of parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.params import SGD, Adam, AdamW, AdamW8Bit, Lion, Muon, Optimizer, RMSprop
from pipelines.stage import StageError
from pipelines.training.lion import LionOptimizer
from pipelines.training.muon import BFloat16Muon, Float32Muon
from pipelines.training.sharding import flattened, is_part, part_of, whole


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Muon's domain: weights of layers with two or more dimensions, which map vectors to vectors.

    Embeddings are not, nor are tables that a network adds to its activations row by row, whatever their shape: they
    are parameters of a block itself (``scale_shift_table`` [6, D] of LTX-Video), and only layers have a ``weight``.
    """
    is_layer = name.rpartition(".")[2].endswith("weight") and "embed" not in name
    return is_layer and parameter.ndim >= 2 and min(parameter.shape[0], parameter.shape[1:].numel()) > 1


def _eight_bit(groups: list[dict[str, Any]], block: AdamW8Bit) -> torch.optim.Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found]
    except ImportError:
        raise StageError(
            "training.optimizer: adamw_8bit needs bitsandbytes and a GPU: pip install 'reelgraph[eight-bit]', or "
            "take adamw (same update, 6 bytes more per weight) or lion (half of adamw's state)."
        ) from None
    return AdamW8bit(groups, lr=block.learning_rate, betas=block.betas)


def _muon(matrix: Tensor, precision: str) -> type[torch.optim.Muon]:
    if matrix.device.type == "cuda" and not is_part(matrix):
        return torch.optim.Muon
    return BFloat16Muon if matrix.device.type == "cuda" or precision == "bf16" else Float32Muon


def build(block: Optimizer, groups: list[dict[str, Any]], precision: str) -> torch.optim.Optimizer:
    """The optimizer of a block over groups of parameters that state their own ``weight_decay``.

    Args:
        precision: in which the run computes (:func:`pipelines.training.precision.resolved`); Muon's update does too.

    Raises:
        StageError: it belongs to an extra that is not installed.
    """
    rate = block.learning_rate
    match block:
        case AdamW():
            return torch.optim.AdamW(groups, lr=rate, betas=block.betas, fused=True)
        case AdamW8Bit():
            return _eight_bit(groups, block)
        case Adam():
            return torch.optim.Adam(groups, lr=rate, betas=block.betas, amsgrad=block.amsgrad, fused=True)
        case SGD():
            return torch.optim.SGD(groups, lr=rate, momentum=block.momentum, nesterov=block.nesterov)
        case RMSprop():
            return torch.optim.RMSprop(groups, lr=rate, alpha=block.smoothing, momentum=block.momentum)
        case Lion():
            return LionOptimizer(groups, lr=rate, betas=block.betas)
        case Muon():
            kind = _muon(groups[0]["params"][0], precision)
            return kind(groups, lr=rate, momentum=block.momentum)


def _parts(values: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
    """The state of one parameter, spread as it is; what is not as large as the parameter (a count) stays whole."""

    def own(value: Any) -> Any:
        return part_of(value, parameter) if isinstance(value, Tensor) and value.shape == parameter.shape else value

    return {name: own(value) for name, value in values.items()}


class NetworkOptimizer:
    """The optimizers of one network: that of its block, and with Muon, AdamW for what is no matrix.

    Muon takes two-dimensional weights; a convolution kernel [O, I, ...] is given to it as a view [O, I * ...] that
    shares its memory. Weights with one dimension (biases, norms) never decay.
    """

    def __init__(self, network: nn.Module, block: Optimizer, precision: str = "fp32") -> None:
        named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        self.trained = [p for _, p in named]
        self.views: list[tuple[nn.Parameter, nn.Parameter]] = []
        self.optimizers: list[torch.optim.Optimizer] = []
        if isinstance(block, Muon):
            tables = {f"{name}.weight" for name, layer in network.named_modules() if isinstance(layer, nn.Embedding)}
            matrices = [p for name, p in named if name not in tables and is_hidden_matrix(name, p)]
            self.views = [(p, nn.Parameter(flattened(p.data))) for p in matrices]
            if self.views:
                flat = [view for _, view in self.views]
                self.optimizers.append(build(block, [{"params": flat, "weight_decay": block.weight_decay}], precision))
            flattened_ones = {id(p) for p in matrices}
            named = [(name, p) for name, p in named if id(p) not in flattened_ones]
            block = block.others
        self.plain = [p for _, p in named]
        decayed, undecayed = [p for p in self.plain if p.ndim >= 2], [p for p in self.plain if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": block.weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
        if self.plain:
            self.optimizers.append(build(block, [group for group in groups if group["params"]], precision))
        self.base = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    def share_gradients(self) -> None:
        """Show the network's gradients to the flattened views; called when they are complete."""
        for parameter, view in self.views:
            view.grad = None if parameter.grad is None else flattened(parameter.grad)

    def clip(self, most: float, unscale: Callable[[list[torch.optim.Optimizer]], None]) -> Tensor | None:
        """Make the norm of all gradients, after ``unscale(optimizers)``, at most so large.

        Returns what it was; None where no weight has a gradient.
        """
        reached = [parameter for parameter in self.trained if parameter.grad is not None]
        if not reached:
            return None
        self.share_gradients()
        unscale(self.optimizers)
        return whole(nn.utils.clip_grad_norm_(reached, most))

    def set_rates(self, scale: float) -> None:
        """``scale`` times the stated learning rates from now on."""
        for optimizer, rates in zip(self.optimizers, self.base, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale

    def step(self, scale: float) -> None:
        """One update at ``scale`` times the stated learning rates; gradients are cleared."""
        self.set_rates(scale)
        self.share_gradients()
        for optimizer in self.optimizers:
            optimizer.step()
        self.clear()

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters():
            parameter.grad = None
        for _, view in self.views:
            view.grad = None

    def parameters(self) -> Iterator[nn.Parameter]:
        """The network's own parameters (not the flattened views)."""
        yield from (parameter for parameter, _ in self.views)
        yield from self.plain

    @property
    def learning_rate(self) -> float:
        """The first optimizer's current rate, for the log."""
        return float(self.optimizers[0].param_groups[0]["lr"])

    def held(self) -> Iterator[Tensor]:
        """Tensors of the optimizers' states in this process."""
        for optimizer in self.optimizers:
            for values in optimizer.state.values():
                yield from (value for value in values.values() if isinstance(value, Tensor))

    def state_dict(self) -> list[dict]:
        """State of each optimizer, in order."""
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list[dict]) -> None:
        """Restore what :meth:`state_dict` gave, with whole tensors."""
        for optimizer, state in zip(self.optimizers, states, strict=True):
            ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            own = {index: _parts(values, ordered[index]) for index, values in state["state"].items()}
            optimizer.load_state_dict({**state, "state": own})
