"""The only place that steps an optimizer."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pipelines import stage
from pipelines.params import ParamsError
from pipelines.training.ema import Ema
from pipelines.training.meters import Averages, Clock, sigma_buckets
from pipelines.training.objective import Batch, Batches, LossOutput, Objective
from pipelines.training.optimizers import NetworkOptimizer, scale_at
from pipelines.training.reading import Reader
from pipelines.training.run import Run

Validate = Callable[[int], dict[str, float]]


def accumulation(batch_size: int, micro_batch: int, processes: int) -> int:
    """Micro-batches per process and update.

    Raises:
        ParamsError: the global batch is not a multiple of micro_batch x processes.
    """
    unit = micro_batch * processes
    if batch_size % unit:
        low, high = batch_size // unit * unit, -(-batch_size // unit) * unit
        choice = f"{low} or {high}" if low else f"{high}"
        raise ParamsError(
            f"batch_size {batch_size} is not a multiple of micro_batch x processes "
            f"({micro_batch} x {processes} = {unit}). Use {choice}, or change micro_batch."
        )
    return batch_size // unit


def micro_seed(seed: int, step: int, index: int) -> int:
    """Seed of the randomness of one micro-batch: a function of (seed, step, place in the global batch) alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{index}".encode()).digest()[:8], "little") >> 1


def check_outputs(outputs: dict[str, LossOutput], trained: tuple[str, ...]) -> None:
    """An objective returns losses for networks it trains, in their update order."""
    order = [name for name in trained if name in outputs]
    if list(outputs) != order:
        raise TypeError(f"losses() returned {list(outputs)}; expected networks of {trained} in that order.")


def check_finite(value: float, what: str, run: Run, batches: Batches) -> None:
    """Stop before the update.

    Raises:
        stage.StageError: naming step, process, samples and the last good state.
    """
    if math.isfinite(value):
        return
    keys = list(batches.keys(run.step))
    shown = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
    kept = sorted(run.work.glob("state-*"))
    raise stage.StageError(
        f"{what} is {value} at step {run.step + 1}, process {run.accelerator.process_index}, samples {shown}. "
        f"Nothing was updated; last good state: {kept[-1] if kept else 'none yet'}. Lower the learning rate or "
        "max_grad_norm, or look at these samples."
    )


class Trainer:
    """Networks, optimizers and averages of one run. Only :func:`train` makes one; there is nothing to subclass."""

    def __init__(self, objective: Objective, batches: Batches, run: Run) -> None:
        self.objective, self.batches, self.run = objective, batches, run
        self.accumulate = accumulation(run.training.batch_size, run.training.micro_batch, run.accelerator.num_processes)
        for value in vars(objective).values():
            if isinstance(value, nn.Module):
                value.to(run.device)
        self.networks: dict[str, nn.Module] = {name: getattr(objective, name) for name in objective.trained}
        self.optimizers = {name: NetworkOptimizer(net, run.training.optimizer) for name, net in self.networks.items()}
        if run.training.ema is not None:
            run.emas = {name: Ema(net, run.training.ema) for name, net in self.networks.items()}
        self.averages = Averages()
        self._restore()
        self.wrapped = {name: run.accelerator.prepare(net) for name, net in self.networks.items()}
        for name, network in self.wrapped.items():
            setattr(objective, name, network)

    # ---- state ----

    def tree(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        memory = getattr(self.objective, "state_dict", None)
        return {
            "networks": {name: net.state_dict() for name, net in self.networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "ema": {name: ema.weights for name, ema in self.run.emas.items()},
            "averages": dict(self.averages.sums),
            "memory": memory() if memory else None,
        }

    def _restore(self) -> None:
        found = self.run.restore()
        if found is None:
            return
        for name, network in self.networks.items():
            network.load_state_dict(found["networks"][name])
            self.optimizers[name].load_state_dict(found["optimizers"][name])
        for name, ema in self.run.emas.items():
            ema.weights = {key: value.to(self.run.device) for key, value in found["ema"][name].items()}
        self.averages = Averages(found["averages"])
        if found["memory"] is not None:
            self.objective.load_state_dict(found["memory"])  # type: ignore[attr-defined]

    # ---- one update ----

    def _backward(self, outputs: dict[str, LossOutput], last: bool) -> None:
        for name, output in outputs.items():
            loss = output.loss.mean()
            check_finite(float(loss.detach()), f"loss of {name}", self.run, self.batches)
            quiet = contextlib.nullcontext() if last else self.run.accelerator.no_sync(self.wrapped[name])
            with quiet:
                self.run.accelerator.backward(loss / self.accumulate)
            self.averages.add(f"loss/{name}", float(loss.detach()))
            for metric, value in output.metrics.items():
                self.averages.add(metric if "/" in metric else f"loss/{metric}", float(value.detach()))
            for monitor, value in output.monitors.items():
                self.averages.add(monitor, float(value.detach()))
            if output.sigma is not None:
                for bucket, value in sigma_buckets(output.loss.detach(), output.sigma).items():
                    self.averages.add(bucket, value)

    def accumulate_micro_batch(self, batch: Batch, index: int) -> None:
        """Forward and backward of micro-batch ``index`` of this update."""
        accelerator = self.run.accelerator
        place = index * accelerator.num_processes + accelerator.process_index
        torch.manual_seed(micro_seed(self.run.training.seed, self.run.step, place))
        with accelerator.autocast():
            outputs = self.objective.losses(batch, self.run.step)
        check_outputs(outputs, self.objective.trained)
        self._backward(outputs, index == self.accumulate - 1)

    def update(self) -> None:
        """Clip, stop on a gradient that is not finite, step every network that has a gradient, average."""
        scale = scale_at(self.run.training, self.run.step)
        norms = {}
        for name, network in self.networks.items():
            if any(p.grad is not None for p in network.parameters()):
                norm = self.run.accelerator.clip_grad_norm_(network.parameters(), self.run.training.max_grad_norm)
                norms[name] = float(norm)  # type: ignore[arg-type]
        for name, norm in norms.items():
            check_finite(norm, f"gradient of {name}", self.run, self.batches)
        for name, norm in norms.items():
            self.optimizers[name].step(scale)
            self.averages.add(f"grad_norm/{name}", norm)
        self.run.step += 1
        for ema in self.run.emas.values():
            ema.update(self.run.step)


def _log(trainer: Trainer, clock: Clock) -> None:
    run = trainer.run
    row = {"step": run.step, "seconds": round(run.seconds, 3), **trainer.averages.take()}
    row |= {f"lr/{name}": optimizer.learning_rate for name, optimizer in trainer.optimizers.items()}
    row |= clock.numbers(run.training.batch_size)
    run.log(row)
    clock.reset()


def _validate(trainer: Trainer, validate: Validate | None) -> None:
    """Numbers of a validation go to the log as ``validation/…``; the training randomness is not touched by it."""
    if validate is None:
        return
    modes = {name: network.training for name, network in trainer.networks.items()}
    with torch.random.fork_rng(), torch.no_grad():
        for network in trainer.networks.values():
            network.eval()
        torch.manual_seed(trainer.run.training.seed)
        numbers = validate(trainer.run.step)
    for name, network in trainer.networks.items():
        network.train(modes[name])
    if numbers:
        named = {name if "/" in name else f"validation/{name}": value for name, value in numbers.items()}
        trainer.run.log({"step": trainer.run.step, "seconds": round(trainer.run.seconds, 3), **named})


def train(objective: Objective, batches: Batches, run: Run, validate: Validate | None = None) -> None:
    """Make ``run.training.steps`` updates of the networks in ``objective.trained``, resuming where ``run`` left off.

    Afterwards the networks are back on the objective, unwrapped, with their trained weights; averages are in the run.

    Raises:
        stage.StageError: a loss or gradient is not finite; nothing was updated.
        stage.Stopped: a signal asked to stop; the state of the last finished step is saved.
    """
    params = run.training
    trainer = Trainer(objective, batches, run)
    reader = Reader(batches, run, trainer.accumulate)
    clock = Clock(reader)
    with stage.saves_on_stop() as stop:
        index = 0
        for batch in reader:
            trainer.accumulate_micro_batch(batch, index)
            index += 1
            if index < trainer.accumulate:
                continue
            index = 0
            trainer.update()
            clock.steps += 1
            finished = run.step == params.steps
            stage.report(run.step, params.steps, "step", **trainer.averages.peek("loss/"))
            if run.step % params.log_every == 0 or finished:
                _log(trainer, clock)
            if run.step % params.validate_every == 0 or finished:
                _validate(trainer, validate)
                clock.reset()
            stopping = run.any_process(stop.is_set())
            if run.step % params.save_every == 0 or finished or stopping:
                run.save(trainer.tree())
            if stopping and not finished:
                raise stage.Stopped(f"asked to stop; saved at step {run.step}, the same command continues there")
    for name, network in trainer.networks.items():
        setattr(objective, name, network)
