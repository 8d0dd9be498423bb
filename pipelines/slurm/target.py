"""The machine file's ``target: slurm``: what each stage asks of the cluster. Facts of the machine, in no identity."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipelines.stage import StageError

TIME = re.compile(r"\d+|\d+:\d\d|(\d+-)?\d+:\d\d:\d\d|\d+-\d+(:\d\d)?")
MEMORY = re.compile(r"\d+[KMGT]?")
KEYS = ("target", "slurm")
"""Keys of the machine file that are not accelerate's."""


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


def _line(value: Any) -> Any:
    if isinstance(value, str) and (not value.strip() or "\n" in value):
        raise ValueError("one line of text, not empty")
    return value


Time = Annotated[str, BeforeValidator(_time)]
Memory = Annotated[str, BeforeValidator(_memory)]
Line = Annotated[str, BeforeValidator(_line)]
Number = Annotated[int, Field(ge=1)]


class Block(BaseModel):
    """A block of the machine file: unknown keys are errors. What it leaves out is for the cluster to say."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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
    options: list[Line] = []

    @property
    def ranks(self) -> int:
        """Processes of the whole job."""
        return self.nodes * self.processes


class Slurm(Block):
    """The block ``slurm``: of the cluster, of every stage (``resources``), and of single ones (``stages``)."""

    account: Line | None = None
    qos: Line | None = None
    warning_seconds: Number = 120
    poll_seconds: Annotated[float, Field(gt=0)] = 10.0
    most_restarts: Annotated[int, Field(ge=0)] = 100
    setup: list[Line] = []
    resources: dict[str, Any] = {}
    stages: dict[str, dict[str, Any] | Literal["local"]] = {}


@dataclass(frozen=True)
class Target:
    """Where one stage runs: what is common to the cluster's jobs, and what this stage's job is given."""

    slurm: Slurm
    resources: Resources


def _complaint(path: Path, error: ValidationError, block: str) -> StageError:
    first = error.errors()[0]
    where = ".".join([block, *map(str, first["loc"])])
    known = ", ".join(Slurm.model_fields if block == "slurm" else Resources.model_fields)
    said = f"unknown key; known: {known}" if first["type"] == "extra_forbidden" else first["msg"]
    return StageError(f"{path}: {where}: {said.removeprefix('Value error, ')}.")


def target(path: Path | None, content: Mapping[str, Any], stage: str, known: set[str]) -> Target | None:
    """Where the machine file sends this stage; None for this machine.

    Args:
        known: all stages of the graph; one under ``stages`` that is none of them is a mistake of spelling.

    Raises:
        StageError: the file asks for something that is not there, with its key.
    """
    kind = content.get("target", "local")
    if kind == "local":
        return None
    if kind != "slurm" or path is None:
        raise StageError(f"{path}: target is {kind!r}; write local or slurm.")
    try:
        slurm = Slurm.model_validate(content.get("slurm") or {})
    except ValidationError as error:
        raise _complaint(path, error, "slurm") from None
    unknown = sorted(slurm.stages.keys() - known) if known else []
    if unknown:
        raise StageError(
            f"{path}: slurm.stages.{unknown[0]}: no stage of dvc.yaml; there are {', '.join(sorted(known))}."
        )
    own = slurm.stages.get(stage, {})
    if own == "local":
        return None
    assert isinstance(own, dict)
    block = "slurm.stages." + stage if own else "slurm.resources"
    try:
        return Target(slurm, Resources.model_validate({**slurm.resources, **own}))
    except ValidationError as error:
        raise _complaint(path, error, block) from None
