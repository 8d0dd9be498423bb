"""Memory of a training step: activations that are not kept, and what to do when it does not suffice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipelines.origin import peak_gib
from pipelines.params import Training
from pipelines.stage import StageError
from pipelines.training.precision import again
from pipelines.training.sharding import local


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Outermost members of a ModuleList, or of a Sequential where they have parts themselves."""
    for child in network.children():
        members = list(child.children()) if isinstance(child, (nn.ModuleList, nn.Sequential)) else []
        for member in members:
            if isinstance(child, nn.ModuleList) or any(True for _ in member.children()):
                yield member
        if not members:
            yield from blocks(child)


def checkpoint_activations(network: nn.Module) -> None:
    """Keep only what enters each block; the backward pass computes the inside again.

    Models of diffusers do it in their own way.

    Raises:
        StageError: the network has no blocks.
    """
    theirs = [module for module in network.modules() if getattr(module, "_supports_gradient_checkpointing", False)]
    for module in theirs:
        module.enable_gradient_checkpointing(_computed_again)  # type: ignore[operator]
    found = [] if theirs else list(blocks(network))
    for block in found:
        block.forward = partial(_computed_again, block.forward)
    if not theirs and not found:
        raise StageError(
            f"training.gradient_checkpointing: {type(network).__name__} has no blocks to compute again; set false."
        )


def _computed_again(block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return checkpoint(block, *args, use_reentrant=False, context_fn=again, **kwargs)


def _bytes(values: Iterable[Any]) -> int:
    held = (local(value) for value in values if isinstance(value, Tensor))
    return sum(value.numel() * value.element_size() for value in held)


def standing_gib(networks: Mapping[str, nn.Module], held: Iterable[Tensor], averages: list[dict]) -> float:
    """GiB of weights, their gradients, what optimizers hold and averages: what no micro-batch changes."""
    total = _bytes(held)
    for network in networks.values():
        parameters = list(network.parameters())
        total += _bytes(parameters) + _bytes(parameter for parameter in parameters if parameter.requires_grad)
    return (total + sum(_bytes(average.values()) for average in averages)) / 2**30


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch could not allocate: on a GPU, or (a plain RuntimeError) on the processor."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


def advice(training: Training, standing: float, peak: float) -> str:
    """Which knob lowers the peak, and by how much: all in GiB per process."""
    moving = max(0.0, peak - standing)
    lines = []
    if training.micro_batch > 1:
        half = next(n for n in range(training.micro_batch // 2, 0, -1) if training.batch_size % n == 0)
        saved = moving * (1 - half / training.micro_batch)
        lines.append(f"micro_batch {training.micro_batch} -> {half} (same result, accumulated): about -{saved:.2g}")
    if not training.gradient_checkpointing:
        lines.append(f"gradient_checkpointing: true (same result, slower): most of {moving:.2g}")
    if training.precision == "fp32":
        lines.append(f"precision: bf16: up to -{moving / 2:.2g}")
    if training.optimizer.name in ("adam", "adamw", "muon"):
        lines.append("optimizer lion or adamw_8bit: less state per weight")
    return "; ".join(lines)


@contextlib.contextmanager
def explained(training: Training, stage: str, standing: Callable[[], float]) -> Iterator[None]:
    """Inside, running out of memory becomes one message that says what lowers the peak.

    ``standing()`` gives the GiB that no micro-batch changes, when it happens.

    Raises:
        StageError: out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        peak, still = peak_gib(), standing()
        raise StageError(
            f"out of memory at a peak of {peak:.2g} GiB per process, of which {still:.2g} are weights, gradients, "
            f"optimizer and averages. What lowers it (GiB): {advice(training, still, peak)}. `reel fit {stage}` "
            f"measures each choice. ({str(error).splitlines()[0][:160]})"
        ) from error
