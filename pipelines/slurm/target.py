"""The machine file's ``target: slurm``: what each stage asks of the cluster. Facts of the machine, in no identity."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pipelines.targets import Block, Engine, Job, Line, Number, chosen

TIME = re.compile(r"\d+|\d+:\d\d|(\d+-)?\d+:\d\d:\d\d|\d+-\d+(:\d\d)?")
MEMORY = re.compile(r"\d+[KMGT]?")


def _time(value: Any) -> Any:
    """Slurm's ways of writing a time; YAML 1.1 readers and people without quotes make ``1:30:00`` a number."""
    if not isinstance(value, str) or not TIME.fullmatch(value):
        raise ValueError(
            f"{value!r}: write a time as Slurm does, in quotes: '30' (minutes), '12:00:00' or '2-00:00:00'"
        )
    return value


def _memory(value: Any) -> Any:
    if not isinstance(value, str) or not MEMORY.fullmatch(value):
        raise ValueError(f"{value!r}: write memory as Slurm does, such as 64G")
    return value


Time = Annotated[str, BeforeValidator(_time)]
Memory = Annotated[str, BeforeValidator(_memory)]


class Resources(Block):
    """What one stage's job is given. ``cpus`` are of one process; ``gpus`` and ``memory`` of one node."""

    nodes: Number = 1
    processes: Number = 1
    cpus: Number = 1
    gpus: Annotated[int, Field(ge=0)] = 0
    memory: Memory | None = None
    time: Time | None = None
    time_min: Time | None = None
    partition: Line | None = None
    constraint: Line | None = None
    options: list[Line] = Field(default_factory=list)

    @property
    def ranks(self) -> int:
        """Processes of the whole job."""
        return self.nodes * self.processes


class Slurm(Engine):
    """The block ``slurm``: of the cluster, of every stage (``resources``), and of single ones (``stages``)."""

    account: Line | None = None
    qos: Line | None = None
    warning_seconds: Number = 120
    setup: list[Line] = Field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """Where one stage runs: what is common to the cluster's jobs, and what this stage's job is given."""

    slurm: Slurm
    resources: Resources
    engine = "slurm"

    def job(
        self, stage: str, words: Sequence[str], alone: bool, environment: dict[str, str], outputs: Sequence[Path]
    ) -> Job:
        """The stage's job: ``words`` as after ``python -m pipelines``."""
        from pipelines.slurm.submit import work  # it asks for the graph

        return work(stage, self, words, alone, environment, outputs)


def target(path: Path, content: Mapping[str, Any], stage: str, known: set[str]) -> Target | None:
    """Where the machine file sends this stage; None for this machine.

    Raises:
        StageError: the file asks for something that is not there, with its key.
    """
    found = chosen(path, content, stage, known, "slurm", Slurm, Resources)
    return Target(*found) if found else None
