"""The networks that a run trains: on their device, shared or spread over processes, with optimizer and average."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.params import NetworkTraining, ParamsError
from pipelines.training import memory, sharding
from pipelines.training.ema import Ema
from pipelines.training.objective import Objective
from pipelines.training.optimizers import NetworkOptimizer
from pipelines.training.run import Run
from pipelines.training.state import load_trained_part, trained_part


def own_blocks(run: Run, trained: tuple[str, ...]) -> dict[str, NetworkTraining]:
    """Optimizer and schedule of every network: its own ones where ``per_network`` has them.

    Raises:
        ParamsError: ``per_network`` names a network that is not trained here.
    """
    own = run.training.per_network or {}
    strange = sorted(set(own) - set(trained))
    if strange:
        raise ParamsError(
            f"{run.name}.training.per_network: {', '.join(strange)} is not trained here; known: {', '.join(trained)}."
        )
    shared = NetworkTraining(optimizer=run.training.optimizer, schedule=run.training.schedule)
    return {name: own.get(name, shared) for name in trained}


class Networks:
    """What the loop trains, and what of it a state holds.

    A network stays the object that the stage made. On the objective stands, while it trains, what is to be called.

    Attributes:
        own: the stage's networks by name.
        optimizers: of each.
        weights: of each, those that are trained; found once, for a walk through the layers takes as long as a layer.
    """

    def __init__(self, objective: Objective, run: Run, found: Mapping[str, Any] | None) -> None:
        self.run = run
        for value in vars(objective).values():
            if isinstance(value, nn.Module):
                value.to(run.device)
        self.own: dict[str, nn.Module] = {name: getattr(objective, name) for name in objective.trained}
        for name, network in self.own.items():
            if found is not None:
                load_trained_part(network, found["networks"][name])
            if run.training.gradient_checkpointing:
                memory.checkpoint_activations(network)
        # Before optimizers and averages are made: spread, they are as large as this process's part; and sharing may
        # move weights (accelerate's "cpu:1" is no device to torch), which Muon's views of them must not miss.
        self.skeletons: dict[str, nn.Module] = {}
        if run.fsdp is not None:
            for name, network in self.own.items():
                self.skeletons[name] = sharding.spread(network, list(memory.blocks(network)), run.fsdp)
        spread = run.fsdp is not None
        self.prepared = {name: net if spread else run.accelerator.prepare(net) for name, net in self.own.items()}
        blocks = own_blocks(run, objective.trained)
        self.optimizers = {
            name: NetworkOptimizer(net, blocks[name].optimizer, run.precision) for name, net in self.own.items()
        }
        self.weights = {name: [p for p in net.parameters() if p.requires_grad] for name, net in self.own.items()}
        if run.training.ema is not None:
            run.emas = {name: Ema(net, run.training.ema) for name, net in self.own.items()}
        if found is not None:
            self._restore(found)
        for name, network in self.prepared.items():
            # the stage's own reference stays as it was: what it validates and samples has other shapes
            setattr(objective, name, torch.compile(network, dynamic=False) if run.training.compile else network)

    def _restore(self, found: Mapping[str, Any]) -> None:
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(found["optimizers"][name])
        for name, ema in self.run.emas.items():
            ema.load(found["ema"][name])

    def state(self) -> dict[str, Any]:
        """Trained weights, optimizer states and averages, by network."""
        return {
            "networks": {name: trained_part(net) for name, net in self.own.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "ema": {name: ema.weights for name, ema in self.run.emas.items()},
        }

    @contextlib.contextmanager
    def only(self, objective: Objective, name: str) -> Iterator[None]:
        """Inside, gradients of the other trained networks are off.

        They are called as the stage made them, not as they are shared over processes: sharing waits for gradients.
        """
        others = [other for other in self.own if other != name]
        called = {other: getattr(objective, other) for other in others}
        frozen = [parameter for other in others for parameter in self.weights[other]]
        for parameter in frozen:
            parameter.requires_grad = False
        for other in others:
            setattr(objective, other, self.own[other])
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad = True
            for other, network in called.items():
                setattr(objective, other, network)
                if other in self.skeletons:  # it was called, and no backward pass follows
                    sharding.settle(self.own[other])

    def backward(self, name: str, loss: Tensor, last: bool) -> None:
        """Backward pass of a network's loss; that of an update's ``last`` micro-batch averages over the processes."""
        with contextlib.nullcontext() if last else self._unsynchronised(name):
            self.run.accelerator.backward(loss)

    def _unsynchronised(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """Inside, a backward pass leaves the gradients of a network in each process."""
        if name in self.skeletons:
            return sharding.unsynchronised(self.own[name])
        return self.run.accelerator.no_sync(self.prepared[name])

    def settle(self) -> None:
        """After a forward without a backward pass."""
        for name in self.skeletons:
            sharding.settle(self.own[name])

    def standing_gib(self) -> float:
        """Memory of this process that no micro-batch changes."""
        held = [tensor for optimizer in self.optimizers.values() for tensor in optimizer.held()]
        return memory.standing_gib(self.own, held, [ema.weights for ema in self.run.emas.values()])

    def give_back(self, objective: Objective) -> None:
        """Every network as the stage made it, with its trained weights, on the objective.

        Averages of spread networks are whole in the first process, which writes checkpoints, and gone in the others.
        """
        for name, skeleton in self.skeletons.items():
            sharding.put_together(self.own[name], skeleton)
            ema = self.run.emas.pop(name, None)
            averages = sharding.gathered(ema.weights if ema else None, self.run.is_main)
            if ema is not None and self.run.is_main:
                ema.weights = averages
                self.run.emas[name] = ema
        for name, network in self.own.items():
            setattr(objective, name, network)
