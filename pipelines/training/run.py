"""One training run of one stage: where it resumes, what it logs, what it leaves.

Resume is "run the same command again": state lives in ``.work/<stage>/<run id>``; :mod:`pipelines.training.resume` says
which earlier state a run goes on from.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, InitProcessGroupKwargs, set_seed

from pipelines import origin, peers, stage
from pipelines.origin import ReadArtifact
from pipelines.params import Params, Training
from pipelines.record import Experiment
from pipelines.training import checkpoint, diagrams, resume, sharding, state
from pipelines.training.ema import Ema
from pipelines.training.facts import begin_record, model_facts
from pipelines.training.precision import LossScale, chosen_device, computing, resolved
from pipelines.training.tracking import (
    MACHINE,
    Rows,
    WandbRun,
    read_rows,
    without_machine,
    write_rows,
    write_table,
)

SHOWN = "validation"
"""Folder of a checkpoint with the clips of its validations."""


@dataclass
class Run:
    """State of one run around the loop."""

    name: str
    params: Params
    training: Training
    out: Path
    metrics: Path
    plots: Path
    work: Path
    inputs: dict[str, ReadArtifact]
    parent: ReadArtifact | None
    accelerator: Accelerator
    identity: resume.Identity
    precision: str
    loss_scale: LossScale
    fsdp: FullyShardedDataParallelPlugin | None = None
    """How networks are spread over the processes, where they are."""
    emas: dict[str, Ema] = field(default_factory=dict)
    step: int = 0
    resumes: int = 0
    seconds_before: float = 0.0
    began: float = field(default_factory=time.monotonic)
    rows: Rows | None = None
    wandb: WandbRun | None = None
    experiment: Experiment = field(default_factory=Experiment)
    writer: state.Writer | None = None
    ended: str | None = None
    """Why ``stop_when`` ended the run before its last step."""
    first_id: str = ""
    """``run_id`` of the run that began it: wandb knows a run by that one, however long it became."""
    segments: list[resume.Segment] = field(default_factory=list)
    """By which code each part of the run was trained."""

    @classmethod
    def open(
        cls,
        params: Any,
        inputs: Mapping[str, Path],
        *,
        out: Path,
        metrics: Path,
        plots: Path,
        parent: Path | None = None,
    ) -> Run:
        """Prepare a run of the section ``params`` (which has a ``training`` block) that reads ``inputs``."""
        training: Training = params.training
        # Built before any network, so that weights are a function of the seed alone.
        set_seed(training.seed)
        precision = resolved(training.precision, chosen_device())
        sharding.check_asked()
        accelerator = Accelerator(
            mixed_precision="bf16" if precision == "bf16" else "no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=peers.patience())],
        )
        fsdp = sharding.asked(accelerator, training, precision)
        read = {key: origin.source(path) for key, path in inputs.items()}
        start = origin.source(parent) if parent else None
        context = stage.current()
        read_from = {**read, "parent": start} if start else read
        identity = resume.identity(params, precision, read_from, context.code)
        name = context.name if context.work else out.name
        work = context.work_folder(out) / identity.run_id
        scale = LossScale(precision, accelerator.device)
        run = cls(
            name, params, training, out, metrics, plots, work, read, start, accelerator, identity, precision, scale
        )
        run.fsdp = fsdp
        if run.is_main:
            resume.prepare(work, identity, training)
        run.experiment = context.experiment or run.experiment
        begin_record(run, {**inputs, "parent": parent} if parent else inputs, read_from)
        return run

    @property
    def run_id(self) -> str:
        """16 hexadecimal digits: of the parameters, what is read, the code and the number of steps."""
        return self.identity.run_id

    @property
    def device(self) -> torch.device:
        """Where the networks live."""
        return self.accelerator.device

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """Inside, networks compute in the run's precision: in training, validation and final measurement alike."""
        return computing(self.precision, self.device)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.accelerator.is_main_process

    def any_process(self, flag: bool) -> bool:
        """Whether the flag is set in any process: all must leave the loop at the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        votes = torch.tensor(int(flag), device=self.device)
        return int(self.accelerator.reduce(votes, reduction="sum")) > 0  # type: ignore[arg-type]

    # ---- resume ----

    def restore(self) -> dict[str, Any] | None:
        """The newest complete state, or None at a fresh start."""
        with self.accelerator.main_process_first():  # one process sets a broken state aside for all
            found = state.newest(self.work)
        self.segments, self.first_id, rows = resume.first(self.identity), self.run_id, 0
        if found is not None:
            self.step = int(found["step"])
            self.resumes = int(found["resumes"]) + 1
            self.seconds_before = float(found["seconds"])
            before = resume.read(found["run"]["segments"])
            self.segments = resume.continued(before, self.step, self.identity, self.training)
            self.first_id, rows = found["first_id"], int(found["rows"])
            stage.say(f"continues at step {self.step} of {self.training.steps}")
        if self.is_main:
            self.rows = Rows(self.work / "rows.jsonl", rows)
            self._drop_shown()
            tracking = stage.current().tracking.wandb
            if tracking is not None:
                values = self.params.model_dump(mode="json")
                name, kept = f"{self.name}-{self.first_id}", read_rows(self.rows.path)
                self.wandb = WandbRun(tracking, self.name, name, values, Path(".work/wandb"), kept)
        return found

    def _drop_shown(self) -> None:
        """Forget clips and pictures of validations that come after the state, or only because a run ended there."""
        for path in self.shown.glob("step-*") if self.shown.is_dir() else ():
            step = int(re.sub(r"\D", "", path.stem) or 0)
            if step > self.step or step % self.training.validate_every:
                path.unlink()

    def save(self, tree: dict[str, Any], finished: bool) -> None:
        """Store the state of this step, whole or not at all: copied now, written while training goes on."""
        if self.fsdp is not None:
            tree = sharding.gathered(tree, self.is_main)
        if self.is_main:
            facts = {"step": self.step, "resumes": self.resumes, "seconds": self.seconds}
            facts |= {"rows": self.rows.count if self.rows is not None else 0, "first_id": self.first_id}
            facts["run"] = resume.facts(self.identity, finished, self.segments)
            self.writer = self.writer or state.Writer(self.work)
            self.writer.write(self.step, {**tree, **facts})

    def wait_for_state(self) -> None:
        """Until the last saved state is on disk."""
        if self.writer is not None:
            self.writer.wait()

    @property
    def seconds(self) -> float:
        """Seconds spent on this run, earlier starts included."""
        return self.seconds_before + time.monotonic() - self.began

    def log(self, row: Mapping[str, float]) -> None:
        """One row to the JSONL file, and to wandb where that is on."""
        if self.rows is not None:
            self.rows.write(row)
        if self.wandb is not None:
            self.wandb.log(row)

    @property
    def shown(self) -> Path:
        """Where the clips and pictures of validations stand, named by step, until they go into the checkpoint."""
        return self.work / SHOWN

    def showed(self, step: int, clip: Path) -> None:
        """A validation wrote this mp4 (or could not): it goes to wandb too, where that is on."""
        if self.wandb is not None and clip.is_file():
            self.wandb.clip(f"{SHOWN}/clips", clip, step)

    def averaged(self, name: str) -> Any:
        """A context in which network ``name`` carries its averaged weights; None when there is no average."""
        return self.emas[name].swapped() if name in self.emas else None

    def ema_weights(self, name: str) -> Any:
        """As :meth:`averaged`, and a context that does nothing when there is no average."""
        return self.averaged(name) or contextlib.nullcontext()

    # ---- the record ----

    @contextlib.contextmanager
    def recorded(self, objective: Any) -> Iterator[None]:
        """Inside, the run's record says what is trained, and how it ended if it does not end well."""
        self.experiment.put(model=model_facts(objective))
        with self.experiment.watched(self.spent):
            yield

    def spent(self) -> dict[str, Any]:
        """What the run took so far: steps, seconds, resumes, speed and memory as last logged."""
        rows = read_rows(self.work / "rows.jsonl") if self.rows is not None else []
        speed = {name: value for row in rows for name, value in row.items() if name.startswith(MACHINE)}
        return {**speed, "step": self.step, "seconds": round(self.seconds, 1), "resumes": self.resumes}

    def conclude(self, results: Mapping[str, Any]) -> None:
        """Write the metrics file, and complete the run's record with the results and what the gates decide."""
        spent = self.spent()
        rows = read_rows(self.work / "rows.jsonl") if self.rows is not None else []
        hardware = origin.hardware(self.device.type)
        ran_on = ", ".join(f"{name} {value}" for name, value in hardware.items())
        times = {"steps": self.step, "seconds": spent["seconds"], "resumes": self.resumes, "ran_on": ran_on}
        stage.write_metrics(self.metrics, {**(rows[-1] if rows else {}), **results, **times})
        self.experiment.put(summary=diagrams.summary(rows, self.name))
        self.experiment.conclude(spent, results, origin.inside(self.plots / "training.csv") if rows else None)

    # ---- the end ----

    def record(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """Where the checkpoint came from and what it reached: the same for every identical run."""
        return {
            "stage": self.name,
            "step": self.step,
            "run_id": self.run_id,
            "params": self.params.model_dump(mode="json"),
            "seed": self.training.seed,
            "inputs": {name: asdict(source) for name, source in self.inputs.items()},
            "precision": self.precision,
            "ended": self.ended,
            "segments": resume.plain(self.segments),
            "parent": asdict(self.parent) if self.parent else None,
            "command": origin.command(stage.current().command),
            "code": stage.current().code or None,
            "environment": origin.environment(),
            "results": dict(results),
        }

    def finish(
        self,
        networks: Mapping[str, Any],
        results: Mapping[str, Any],
        extra_files: Callable[[Path], None] | None = None,
    ) -> None:
        """Write checkpoint, metrics, table and curves. ``results`` may nest; only its finite numbers are metrics.

        The first process writes; the others need not come here, and may have ended.
        """
        if not self.is_main:
            return
        rows = read_rows(self.work / "rows.jsonl")
        with stage.whole_folder(self.out) as folder:
            checkpoint.save_networks(folder, networks, self.averaged)
            if extra_files is not None:
                extra_files(folder)
            if self.shown.is_dir():
                shutil.copytree(self.shown, folder / SHOWN)
            write_rows([without_machine(row) for row in rows], folder / "metrics.jsonl")
            checkpoint.write_record(folder, self.record(results), origin.inside(self.out))
        self.conclude(results)
        try:
            write_table(rows, self.plots / "training.csv")
            diagrams.draw(rows, self.name, self.plots / "training")
        except Exception as error:  # the checkpoint is written and has the rows: a picture less
            stage.say(f"warning: the curves are not written ({type(error).__name__}: {error})")
        resume.tidy(self.work)
        if self.wandb is not None:
            self.wandb.close()
