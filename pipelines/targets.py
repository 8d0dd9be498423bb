"""Where the machine file sends a stage: ``target: local``, ``slurm`` or ``kubernetes``; facts of the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipelines.handed_over import NOTES
from pipelines.stage import StageError


def _line(value: Any) -> Any:
    if isinstance(value, str) and (not value.strip() or "\n" in value):
        raise ValueError("one line of text, not empty")
    return value


Line = Annotated[str, BeforeValidator(_line)]
Number = Annotated[int, Field(ge=1)]


class Block(BaseModel):
    """A block of the machine file: unknown keys are errors. What it leaves out is for the engine to say."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Engine(Block):
    """An engine's block: what every stage is given (``resources``), and what single ones are (``stages``)."""

    poll_seconds: Annotated[float, Field(gt=0)] = 10.0
    most_restarts: Annotated[int, Field(ge=0)] = 100
    resources: dict[str, Any] = Field(default_factory=dict)
    stages: dict[str, dict[str, Any] | Literal["local"]] = Field(default_factory=dict)


class Job(Protocol):
    """A stage's job, sized but not handed over."""

    def is_begun(self) -> bool:
        """Whether an earlier launcher has handed it over: what a job has half written is not to be touched."""
        ...

    def run(self, lock: int, look: Callable[[], None]) -> tuple[int, bool]:
        """Have it run, to its end. Returns its exit code, and whether it was asked to stop."""
        ...


class Target(Protocol):
    """Where one stage runs."""

    engine: str

    def job(
        self, stage: str, words: Sequence[str], alone: bool, environment: dict[str, str], outputs: Sequence[Path]
    ) -> Job:
        """The stage's job: ``words`` as after ``python -m pipelines``."""
        ...


E_ = TypeVar("E_", bound=Engine)
R_ = TypeVar("R_", bound=Block)


def _complaint(path: Path, error: ValidationError, block: str, model: type[Block]) -> StageError:
    first = error.errors()[0]
    where = ".".join([block, *map(str, first["loc"])])
    fields = model.model_fields
    for part in first["loc"][:-1]:  # of a block in the block
        inner = fields[str(part)].annotation if str(part) in fields else None
        fields = inner.model_fields if isinstance(inner, type) and issubclass(inner, BaseModel) else fields
    names = [name for name in fields if name not in Engine.model_fields] + [
        n for n in fields if n in Engine.model_fields
    ]
    said = f"unknown key; known: {', '.join(names)}" if first["type"] == "extra_forbidden" else first["msg"]
    return StageError(f"{path}: {where}: {said.removeprefix('Value error, ')}.")


def block(path: Path, content: Mapping[str, Any], name: str, engine: type[E_]) -> E_:
    """The engine's block of the machine file.

    Raises:
        StageError: it asks for something that is not there, with its key.
    """
    try:
        return engine.model_validate(content.get(name) or {})
    except ValidationError as error:
        raise _complaint(path, error, name, engine) from None


def chosen(
    path: Path, content: Mapping[str, Any], stage: str, known: set[str], name: str, engine: type[E_], given: type[R_]
) -> tuple[E_, R_] | None:
    """The engine's block, and what it gives this stage; None where the stage stays on this machine.

    Args:
        known: all stages of the graph; one under ``stages`` that is none of them is a mistake of spelling.

    Raises:
        StageError: the file asks for something that is not there, with its key.
    """
    whole = block(path, content, name, engine)
    unknown = sorted(whole.stages.keys() - known) if known else []
    if unknown:
        raise StageError(
            f"{path}: {name}.stages.{unknown[0]}: no stage of dvc.yaml; there are {', '.join(sorted(known))}."
        )
    own = whole.stages.get(stage, {})
    if own == "local":
        return None
    assert isinstance(own, dict)
    try:
        return whole, given.model_validate({**whole.resources, **own})
    except ValidationError as error:
        raise _complaint(path, error, f"{name}.stages.{stage}" if own else f"{name}.resources", given) from None


def target(path: Path | None, content: Mapping[str, Any], stage: str, known: set[str]) -> Target | None:
    """Where the machine file sends this stage; None for this machine.

    Raises:
        StageError: the file asks for something that is not there, with its key.
    """
    kind = content.get("target", "local")
    if kind == "local":
        return None
    if path is not None and kind == "slurm":
        from pipelines.slurm import target as slurm

        return slurm.target(path, content, stage, known)
    if path is not None and kind == "kubernetes":
        from pipelines.kubernetes import target as kubernetes

        return kubernetes.target(path, content, stage, known)
    raise StageError(f"{path}: target is {kind!r}; write local, slurm or kubernetes.")


def refuse_beside(stage: str, engine: str = "local", work: Path = Path(".work")) -> None:
    """For a start by this engine: no second writer beside a job that an earlier launcher left with another one.

    Raises:
        StageError: such a job runs, or whether it does cannot be asked.
    """
    for name, note in NOTES.items():
        if name == engine or not (work / stage / note).exists():
            continue
        if name == "slurm":
            from pipelines.slurm.submit import refuse_live
        else:
            from pipelines.kubernetes.submit import refuse_live
        refuse_live(stage)
