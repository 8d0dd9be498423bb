"""A stage's job handed to Slurm once: found again by the note of the attempt, by its name, or by its comment."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines import machine
from pipelines.commands import stage_entries
from pipelines.devices import wants_gpu
from pipelines.handed_over import HandedOver, key
from pipelines.slurm import attempt, queue
from pipelines.slurm.attempt import Attempt
from pipelines.slurm.script import text
from pipelines.slurm.target import Target
from pipelines.stage import StageError

KEPT_LOGS = 20
ACCOUNT_SECONDS = 5.0
"""How long a job that has told its own end may take to be over for Slurm too, whose words go into the record."""
OF_A_JOB = ("SLURM_", "SBATCH_", "SRUN_", "DAGSTER_PIPES_")
"""Variables that are of another job (a launcher may run inside one), or of a channel that ends on this machine."""


@dataclass(frozen=True)
class Work(HandedOver):
    """What is to be run: ``words`` as after ``python -m pipelines``, and what identifies the result."""

    stage: str
    target: Target
    words: Sequence[str]
    environment: dict[str, str]
    key: str
    outputs: Sequence[Path]

    def is_begun(self) -> bool:
        """Whether an earlier launcher has handed it to Slurm: what a job has half written is not to be touched."""
        return attempt.noted(self.stage) is not None or _unnoted(self.stage) is not None

    def run(self, lock: int, look: Callable[[], None]) -> tuple[int, bool]:
        """See :func:`pipelines.slurm.follow.run`."""
        from pipelines.slurm.follow import run  # it follows what this hands over

        return run(self, lock, look)


def work(
    stage: str, target: Target, words: Sequence[str], alone: bool, environment: dict[str, str], outputs: Sequence[Path]
) -> Work:
    """A stage's job, sized: one process of one that is alone, processors for its threads, GPUs where it wants them."""
    asked = target.resources
    if alone:
        asked = asked.model_copy(update={"nodes": 1, "processes": 1, "gpus": min(asked.gpus, 1)})
    if not wants_gpu(stage, stage_entries()):
        asked = asked.model_copy(update={"gpus": 0})
    environment = {machine.THREADS: str(asked.cpus)} | environment
    environment |= {} if asked.gpus else {"ACCELERATE_USE_CPU": "true"}
    return Work(stage, replace(target, resources=asked), words, environment, key(stage, words, outputs), outputs)


# ---- submit, or find what is submitted ----------------------------------------------------------------------------


def _variables(work: Work) -> dict[str, str]:
    kept = {name: value for name, value in work.environment.items() if not name.startswith(OF_A_JOB)}
    kept |= {name: value for name, value in os.environ.items() if name == "SLURM_CONF"}
    return kept | {"REEL_JOB_FOLDER": str(attempt.folder(work.stage)), "REEL_STAGE": work.stage}


def submit(work: Work, lock: int) -> Attempt:
    """Hand the stage to Slurm. sbatch inherits the stage's lock: while it lives, nobody else may look or submit."""
    made = attempt.new(work.stage, work.key)
    folder = attempt.folder(work.stage)
    folder.mkdir(parents=True, exist_ok=True)
    _tidy(folder)
    told = [str(work.target.slurm.most_restarts), str(work.target.slurm.warning_seconds)]
    command = [sys.executable, "-P", "-m", "pipelines.slurm.job", *told, *work.words]
    script = folder / f"{made.token}.sh"
    comment = attempt.comment(work.stage, work.key)
    script.write_text(text(work.target, made.name, comment, folder / "%j.log", command), encoding="utf-8")
    attempt.note(made)
    done = subprocess.run(
        ["sbatch", "--parsable", str(script)],
        env=_variables(work),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        pass_fds=(lock,),
    )
    number = done.stdout.strip().partition(";")[0] if done.returncode == 0 else _number_of(made)
    if number is None:  # the queue answered, and has no such job
        attempt.forget(work.stage)
        said = (done.stderr.strip() or done.stdout.strip() or "no reason").splitlines()[-1]
        raise StageError(f"Slurm does not take the job: {said} ({script} is what it was given).")
    return attempt.with_job(made, number)


def _tidy(folder: Path) -> None:
    """Keep what the newest jobs left."""
    for kind in ("*.log", "*.sh", f"*.{attempt.ENDED}"):
        for file in sorted(folder.glob(kind), key=lambda path: path.stat().st_mtime)[:-KEPT_LOGS]:
            file.unlink(missing_ok=True)


def _number_of(made: Attempt) -> str | None:
    """The number of the job that this attempt became; None where the queue says that there is none."""
    if made.job is not None:
        return made.job
    found = [job.number for job in queue.mine() if job.name == made.name]
    return found[0] if found else queue.by_name(made.name)


def taken_up(work: Work) -> Attempt | None:
    """The earlier attempt that is still to be followed; None where a new one is to be made.

    Raises:
        StageError: a job of this stage runs that computes something else, or Slurm does not answer.
    """
    known = attempt.noted(work.stage) or _unnoted(work.stage)
    number = _number_of(known) if known is not None else None
    if known is None or number is None:
        return None
    known = attempt.with_job(known, number)
    job = queue.job(number)
    if job is not None and job.is_live:
        if known.key != work.key:
            raise StageError(
                f"{job.told()} and computes this stage from other parameters, code or data. Wait for it, or end it: "
                f"scancel {number}"
            )
        work.say(f"takes up {job.told()}, submitted {known.at} from {known.host}; nothing is submitted")
        return known
    told = attempt.ended(work.stage, number)
    if told and told["code"] == 0 and known.key == work.key and all(path.exists() for path in work.outputs):
        work.say(f"job {number} of {known.at} has ended well meanwhile")
        return known
    account(work.stage, number)
    attempt.forget(work.stage)
    return None


def _unnoted(stage: str) -> Attempt | None:
    """A live job of this stage that no note knows of (``.work`` was removed, say)."""
    for job in queue.mine():
        told = attempt.read_comment(job.comment)
        if job.is_live and told is not None and told[:2] == (attempt.project_mark(), stage):
            token = job.name.rpartition("-")[2]
            return Attempt(stage, token, told[2], "a launcher that left no note", job.submitted, job.number)
    return None


def refuse_live(stage: str) -> None:
    """For a start that is not Slurm's: no second writer beside a job that an earlier launcher left.

    Raises:
        StageError: such a job runs, or whether it does cannot be asked.
    """
    known = attempt.noted(stage)
    if known is None:
        return
    number = _number_of(known)
    job = queue.job(number) if number is not None else None
    if job is not None and job.is_live:
        raise StageError(f"{job.told()} and writes the same outputs. Start with `target: slurm`, or: scancel {number}")
    attempt.forget(stage)


def account(stage: str, number: str) -> None:
    """What Slurm says that the job took, into the record of the run that it made."""
    from pipelines.record import FILE, Experiment  # it reads the stage's context

    until, known = time.monotonic() + ACCOUNT_SECONDS, queue.accounting(number)
    while known and known.get("state") in queue.WORKING and time.monotonic() < until:
        time.sleep(0.25)
        known = queue.accounting(number) or known
    if not known:
        return
    for path in attempt.folder(stage).parent.glob(f"*/{FILE}"):
        experiment = Experiment(path)
        if (experiment.content.get("runtime") or {}).get("job") == number:
            with contextlib.suppress(OSError):
                experiment.put(runtime={"slurm": known})
