"""The only place that steps an optimizer."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import torch

from pipelines import stage
from pipelines.params import ParamsError
from pipelines.training import memory
from pipelines.training.meters import Averages, Scalars, StepClock, sigma_buckets
from pipelines.training.networks import Networks, own_blocks
from pipelines.training.objective import Batch, Batches, LossOutput, Objective, ask
from pipelines.training.reading import Reader, micro_seed, reseed
from pipelines.training.run import Run
from pipelines.training.schedules import Rate
from pipelines.training.watching import Watches

Validate = Callable[[int], dict[str, float]]


def accumulation(batch_size: int, micro_batch: int, processes: int, whole: int = 1) -> int:
    """Micro-batches per process and update; each keeps units of ``whole`` samples together.

    Raises:
        ParamsError: the global batch is not a multiple of micro_batch x processes, or a micro-batch of the unit.
    """
    if micro_batch % whole:
        raise ParamsError(
            f"micro_batch {micro_batch} would cut a unit of {whole} samples that belong together in two. Use a "
            f"multiple of {whole}."
        )
    unit = micro_batch * processes
    if batch_size % unit:
        low, high = batch_size // unit * unit, -(-batch_size // unit) * unit
        choice = f"{low} or {high}" if low else f"{high}"
        raise ParamsError(
            f"batch_size {batch_size} is not a multiple of micro_batch x processes "
            f"({micro_batch} x {processes} = {unit}). Use {choice}, or change micro_batch."
        )
    return batch_size // unit


def check_finite(value: float, what: str, run: Run, batches: Batches) -> None:
    """Stop before the update.

    Raises:
        stage.StageError: naming step, process, samples and the last good state.
    """
    if math.isfinite(value):
        return
    run.wait_for_state()
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
        whole, params = getattr(batches, "unit", 1), run.training
        self.accumulate = accumulation(params.batch_size, params.micro_batch, run.accelerator.num_processes, whole)
        blocks = own_blocks(run, objective.trained)
        self.rates = {name: Rate(block.schedule, run.training.steps) for name, block in blocks.items()}
        self.averages, self.scalars = Averages(), Scalars()
        self.watches = Watches(self.rates, run.training.stop_when, run)
        found = run.restore()
        self.networks = Networks(objective, run, found)
        self.optimizers = self.networks.optimizers
        if found is not None:
            self._restore(found)

    # ---- state ----

    def tree(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on; all processes call it, the first one's counts."""
        remembered = getattr(self.objective, "state_dict", None)
        self.averages.merge(self.run.accelerator)
        return {
            **self.networks.state(),
            "averages": dict(self.averages.sums),
            "scale": self.run.loss_scale.state_dict(),
            "watches": self.watches.state_dict(),
            "memory": remembered() if remembered else None,
        }

    def _restore(self, found: dict[str, Any]) -> None:
        if self.run.is_main:
            self.averages = Averages(found["averages"])
        self.run.loss_scale.load_state_dict(found["scale"])
        self.watches.load_state_dict(found["watches"])
        if found["memory"] is not None:
            self.objective.load_state_dict(found["memory"])  # type: ignore[attr-defined]

    # ---- one update ----

    def _backward(self, outputs: dict[str, LossOutput], last: bool) -> None:
        for name, output in outputs.items():
            loss = output.loss.mean()
            self.networks.backward(name, self.run.loss_scale.scaled(loss / self.accumulate), last)
            self.scalars.add(f"loss/{name}", loss)
            for metric, value in output.metrics.items():
                self.scalars.add(metric if "/" in metric else f"loss/{metric}", value)
            for monitor, value in output.monitors.items():
                self.scalars.add(monitor, value)
            if output.sigma is not None:
                taken = output.loss if output.per_frame is None else output.per_frame
                self.scalars.buckets.append(sigma_buckets(taken.detach().flatten(), output.sigma.flatten()))

    def accumulate_micro_batch(self, batch: Batch, index: int) -> None:
        """Forward and backward of micro-batch ``index`` of this update, network by network."""
        accelerator = self.run.accelerator
        place = index * accelerator.num_processes + accelerator.process_index
        for network in self.objective.trained:
            reseed(micro_seed(self.run.training.seed, self.run.step, place), self.run.device)
            with self.networks.only(self.objective, network):
                with self.run.computing():
                    outputs = ask(self.objective, batch, self.run.step, network)
                self._backward(outputs, index == self.accumulate - 1)

    def _clip(self) -> list[str]:
        """Clip the gradients of each network that has some; returns their names, their norms are among the scalars."""
        present = []
        for name, optimizer in self.optimizers.items():
            norm = optimizer.clip(self.run.training.max_grad_norm, self.run.loss_scale.unscale)
            if norm is not None:
                present.append(name)
                self.scalars.add(f"grad_norm/{name}", norm)
        return present

    def _overflowed(self, values: list[tuple[str, float]]) -> bool:
        """Stop on a loss or gradient that is not finite; true where fp16's loss scale is to take care of it."""
        losses = [(name, value) for name, value in values if name.removeprefix("loss/") in self.networks.own]
        norms = [(name, value) for name, value in values if name.startswith("grad_norm/")]
        for name, value in losses:
            check_finite(value, f"loss of {name.removeprefix('loss/')}", self.run, self.batches)
        overflowed = not all(math.isfinite(value) for _, value in norms)
        if overflowed and not self.run.loss_scale.can_fall:
            for name, value in norms:
                check_finite(value, f"gradient of {name.removeprefix('grad_norm/')}", self.run, self.batches)
        return overflowed

    def update(self) -> None:
        """Clip, stop on what is not finite, step every network that has a gradient, average."""
        present = self._clip()
        values, buckets = self.scalars.take()
        skipped = self._overflowed(values)
        for name in present:
            if skipped:
                self.optimizers[name].clear()
            else:
                self.optimizers[name].step(self.rates[name].factor(self.run.step))
        self.run.loss_scale.adjust(skipped)
        self.run.step += 1
        for name, value in values:
            if math.isfinite(value) or not skipped:
                self.averages.add(name, value)
        for name, value, weight in buckets:
            self.averages.add(name, value, weight)
        self.watches.take(values)
        for ema in self.run.emas.values() if not skipped else ():
            ema.update(self.run.step)


def _log(trainer: Trainer, clock: StepClock) -> None:
    run = trainer.run
    trainer.averages.merge(run.accelerator)
    row = {"step": run.step, "seconds": round(run.seconds, 3), **trainer.averages.take()}
    row |= {f"lr/{name}": optimizer.learning_rate for name, optimizer in trainer.optimizers.items()}
    row |= run.loss_scale.numbers() | (clock.numbers(run.training.batch_size) if clock.steps else {})
    run.log(row)
    clock.reset()


def _validated(trainer: Trainer, validate: Validate | None) -> dict[str, float]:
    """Numbers of a validation as they are logged, ``validation/…``; the training randomness is not touched by it."""
    if validate is None:
        return {}
    networks = trainer.networks.own
    modes = {name: network.training for name, network in networks.items()}
    with torch.random.fork_rng(), torch.no_grad(), trainer.run.computing():
        for network in networks.values():
            network.eval()
        torch.manual_seed(trainer.run.training.seed)
        numbers = validate(trainer.run.step)
    trainer.networks.settle()
    for name, network in networks.items():
        network.train(modes[name])
    named = {name if "/" in name else f"validation/{name}": value for name, value in numbers.items()}
    trainer.watches.take_validation(named)
    return named


def train(objective: Objective, batches: Batches, run: Run, validate: Validate | None = None) -> None:
    """Make ``run.training.steps`` updates of the networks in ``objective.trained``, resuming where ``run`` left off.

    ``stop_when`` may end it earlier. Afterwards the networks are back on the objective, unwrapped, with their trained
    weights; averages are in the run.

    Raises:
        stage.StageError: a loss or gradient is not finite (nothing was updated), or memory does not suffice.
        stage.Stopped: a signal asked to stop; the state of the last finished step is saved.
    """
    trainer = Trainer(objective, batches, run)
    with run.recorded(objective):
        try:
            with stage.saves_on_stop() as stop, memory.explained(run.training, run.name, trainer.networks.standing_gib):
                clock = StepClock(Reader(trainer.batches, run, trainer.accumulate))
                if trainer.watches.ended is None:
                    _updates(trainer, clock, stop, validate)
                _last_rows(trainer, clock, validate)
        finally:
            run.wait_for_state()
    run.ended = trainer.watches.ended
    trainer.networks.give_back(objective)


def _updates(trainer: Trainer, clock: StepClock, stop: threading.Event, validate: Validate | None) -> None:
    run, params = trainer.run, trainer.run.training
    index = 0
    for batch in clock.reader:
        trainer.accumulate_micro_batch(batch, index)
        index += 1
        if index < trainer.accumulate:
            continue
        index = 0
        trainer.update()
        clock.steps += 1
        stage.report(run.step, params.steps, "step", **trainer.averages.peek("loss/"))
        _rows(trainer, clock, validate, run.step % params.log_every == 0, run.step % params.validate_every == 0)
        finished = run.step == params.steps or trainer.watches.ended is not None
        stopping = run.any_process(stop.is_set())
        if run.step % params.save_every == 0 or finished or stopping:
            run.save(trainer.tree(), finished)
        if stopping and not finished:
            raise stage.Stopped(f"asked to stop; saved at step {run.step}, the same command continues there")
        if finished:
            return


def _rows(trainer: Trainer, clock: StepClock, validate: Validate | None, log: bool, look: bool) -> None:
    """Validate where ``look``, log where ``log``."""
    run = trainer.run
    with clock.stopped():
        validated = _validated(trainer, validate) if look else {}
    if log:
        _log(trainer, clock)
    if validated:
        run.log({"step": run.step, "seconds": round(run.seconds, 3), **validated})


def _last_rows(trainer: Trainer, clock: StepClock, validate: Validate | None) -> None:
    """What is logged and validated only because the run ends here.

    The last state knows nothing of it: a longer run goes on from there as if it had never ended.
    """
    run, params = trainer.run, trainer.run.training
    look = run.step == params.steps and run.step % params.validate_every != 0
    _rows(trainer, clock, validate, run.step % params.log_every != 0, look)
