"""The interface between what a system minimises and the loop that minimises it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from torch import Tensor

Batch: TypeAlias = dict[str, Any]
"""Field name to tensor (moved to the device by the loop) or list of strings."""


@dataclass(frozen=True)
class LossOutput:
    """What one network is asked to reduce on one batch: per sample, the loop averages.

    Attributes:
        loss: [B], with a gradient.
        sigma: [B] in [0, 1], where the loss was taken, or [B, T] where frames have their own (their mean counts, or
            with ``per_frame`` each); gives the loss by sigma bucket for free.
        metrics: scalars to log, without gradient; a name without a slash is logged as ``loss/<name>``.
        monitors: the same, logged under exactly the name given (numbers that a seed document spells).
        per_frame: [B, T], the loss of each frame where each has a sigma of its own.
    """

    loss: Tensor
    sigma: Tensor | None = None
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    monitors: Mapping[str, Tensor] = field(default_factory=dict)
    per_frame: Tensor | None = None


class Objective(Protocol):
    """What a system minimises. A GAN trains two networks; freezing is a name missing from ``trained``.

    An objective with memory (queues, running statistics) also has ``state_dict`` and ``load_state_dict``.
    """

    trained: tuple[str, ...]
    """Attributes that hold the networks to update, in update order."""
    reads: tuple[str, ...]
    """Batch fields that the losses use, checked against the manifest before a model is built."""

    @property
    def losses(self) -> Callable[..., dict[str, LossOutput]]:
        """``losses(batch, step, network)``: the loss of one network on the batch at optimizer step ``step`` (from 0).

        Asked for each network of ``trained`` in that order, with the same random numbers, and with gradients of the
        other trained networks off: through them a loss may pass, in them it leaves nothing. An answer without the
        network leaves it as it is at this step. Where one network is trained, ``network`` may be left out.
        """
        ...


class Batches(Protocol):
    """A training reader whose content is a pure function of the step: resume needs no state.

    Samples of which some belong together (the clips of a drifting problem, of a class) come in units: a reader that has
    an attribute ``unit`` is asked for whole units only, so that a micro-batch never cuts one.
    """

    def keys(self, step: int) -> Sequence[str]:
        """Keys of the global batch of this step, in order."""
        ...

    def read(self, step: int, start: int, stop: int) -> Batch:
        """Samples [start, stop) of the global batch of this step."""
        ...


@functools.lru_cache(maxsize=16)
def _by_network(losses: Callable[..., Any]) -> bool:
    """Whether losses are asked for one network; looked up once, for it takes as long as a small kernel."""
    return "network" in inspect.signature(losses).parameters


def ask(objective: Objective, batch: Batch, step: int, network: str) -> dict[str, LossOutput]:
    """What the objective answers for one network: its loss, or nothing.

    Raises:
        TypeError: it answers for another network, or several are trained and it cannot be asked for one.
    """
    if _by_network(getattr(objective.losses, "__func__", objective.losses)):
        outputs = objective.losses(batch, step, network)
    elif len(objective.trained) == 1:
        outputs = objective.losses(batch, step)
    else:
        raise TypeError(f"several networks are trained ({', '.join(objective.trained)}): losses(batch, step, network)")
    if not set(outputs) <= {network}:
        raise TypeError(f"losses() answered for {', '.join(outputs)} when asked for {network}, one of `trained`")
    return outputs
