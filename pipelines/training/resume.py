"""Which earlier state a run goes on from, if any: what was trained, by which code, for how many steps.

A run's folder ``.work/<stage>/<run id>`` is named by a hash of its parameters, of the content of what it reads, of its
code and of its number of steps. Every state says the same of itself, so that what other code, or a run of another
length, has left is found, and a person can be told how to go on from it all the same. The rule, a row per case, stands
in docs/training.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines import stage
from pipelines.optimization import Falling
from pipelines.origin import ReadArtifact
from pipelines.params import Params, Training
from pipelines.recording import link
from pipelines.training import state

SET_ASIDE = "replaced-"
"""Before the name of a state that ``--force`` set aside; it goes when the new run has finished."""


@dataclass(frozen=True)
class Identity:
    """What decides the bits of a run. ``work`` hashes parameters (without the number of steps), precision and data."""

    work: str
    code: str
    steps: int

    @property
    def run_id(self) -> str:
        """Name of the run's folder: 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps([self.work, self.code, self.steps]).encode()).hexdigest()[:16]


def identity(params: Params, precision: str, inputs: Mapping[str, ReadArtifact], code: str) -> Identity:
    """Of a section with a ``training`` block, the precision that is computed in, and what is read."""
    values = params.model_dump(mode="json")
    steps = values["training"]["steps"]
    values["training"] |= {"precision": precision, "steps": None}
    content = {"params": values, "inputs": {name: source.digest for name, source in inputs.items()}}
    return Identity(hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(), code, steps)


@dataclass(frozen=True)
class Segment:
    """A part of a run: from this step on it was trained by this code, for so many steps in all."""

    start: int
    code: str
    steps: int


@dataclass(frozen=True)
class Earlier:
    """The newest state of a run's folder."""

    folder: Path
    step: int
    finished: bool
    identity: Identity

    @property
    def of(self) -> str:
        """How far it is."""
        return f"step {self.step} of {self.identity.steps}"


def earlier(folder: Path) -> Earlier | None:
    """The newest state of a run's folder that is not damaged; None without one, or of an earlier form.

    Raises:
        StageError: it cannot be read at the moment.
    """
    for path in state.complete(folder):
        try:
            facts = state.facts(path)
            return Earlier(folder, int(facts["step"]), bool(facts["finished"]), Identity(**facts["identity"]))
        except state.Damaged:
            continue
        except (KeyError, TypeError):
            return None
    return None


def any_total(training: Training) -> bool:
    """Whether every learning rate is the same function of the step however many steps the run has."""
    blocks = [training.schedule, *(block.schedule for block in (training.per_network or {}).values())]
    return not any(isinstance(schedule, Falling) for schedule in blocks)


def continued(segments: Sequence[Segment], step: int, now: Identity, training: Training) -> list[Segment]:
    """The segments of a run that goes on at ``step``: a new one where code or, if it matters, length is another."""
    last = segments[-1]
    if (last.code, last.steps) == (now.code, now.steps):
        return list(segments)
    if last.code == now.code and any_total(training):
        return [*segments[:-1], Segment(last.start, last.code, now.steps)]
    return [*segments, Segment(step, now.code, now.steps)]


def first(now: Identity) -> list[Segment]:
    """The segments of a run from nothing."""
    return [Segment(0, now.code, now.steps)]


def plain(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """Segments as they stand in a state and in ``checkpoint.json``."""
    return [{"from": part.start, "code": part.code, "steps": part.steps} for part in segments]


def read(parts: Sequence[Mapping[str, Any]]) -> list[Segment]:
    """Inverse of :func:`plain`."""
    return [Segment(part["from"], part["code"], part["steps"]) for part in parts]


def facts(now: Identity, finished: bool, segments: Sequence[Segment]) -> dict[str, Any]:
    """What a state says of its run."""
    return {"identity": asdict(now), "finished": finished, "segments": plain(segments)}


# ---- before a run ---------------------------------------------------------------------------------------------------


def prepare(folder: Path, now: Identity, training: Training) -> None:
    """Leave in ``folder`` the states that this run may go on from, and say what is not gone on from.

    The first process alone calls it, before any reads a state.
    """
    context = stage.current()
    if context.anew:
        _set_aside(folder)
        return
    own = earlier(folder)
    siblings = [one for one in folder.parent.iterdir() if one != folder] if folder.parent.is_dir() else []
    others = [one for one in map(earlier, siblings) if one is not None and one.identity.work == now.work]
    longest = sorted(others, key=lambda one: one.step, reverse=True)
    ahead = [one for one in longest if own is None or one.step > own.step]
    exact = [one for one in ahead if _is_exact(one, now, training)]
    asked = [one for one in ahead if context.carry_on and _is_possible(one, now)]
    if exact and exact[0] is max([*exact[:1], *asked[:1]], key=lambda one: one.step):
        _take_over(exact[0].folder, folder)
    elif asked:
        _copy(asked[0].folder, folder)
        stage.say(f"goes on from {_difference(asked[0], now)}, as asked; checkpoint.json lists it under segments")
    elif ahead:
        _tell(ahead[0], now)


def _is_exact(one: Earlier, now: Identity, training: Training) -> bool:
    """Whether going on gives the bits of a run from nothing."""
    return one.identity.code == now.code and one.step <= now.steps and any_total(training)


def _is_possible(one: Earlier, now: Identity) -> bool:
    """Whether a person may ask to go on: never beyond the last step, never from what other code has finished."""
    return one.step <= now.steps and not (one.finished and one.identity.code != now.code)


def _difference(one: Earlier, now: Identity) -> str:
    by = "" if one.identity.code == now.code else " trained by other code"
    length = "" if one.identity.steps == now.steps else f" (steps is now {now.steps})"
    return f"{one.of}{by}{length}"


def _tell(one: Earlier, now: Identity) -> None:
    """One line on what the run does not go on from, and how it would all the same."""
    if one.step > now.steps:
        stage.say(f"begins anew: {one.of} was trained before, and steps is now {now.steps}")
    elif not _is_possible(one, now):
        stage.say(f"begins anew: other code finished {one.of}, and what is finished is never gone on from")
    else:
        name = stage.current().name
        why = "" if one.identity.code != now.code else ", whose learning rate depends on the number of steps"
        how = f"`reel run --continue {name}` or `{stage.CONTINUE}=1 dvc repro {name}`"
        stage.say(f"begins anew and leaves {_difference(one, now)}{why}; to go on from there all the same: {how}")


def _set_aside(folder: Path) -> None:
    for path in state.complete(folder):
        aside = path.with_name(f"{SET_ASIDE}{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    if folder.is_dir():
        stage.say("begins anew, as --force asks")


def _take_over(source: Path, folder: Path) -> None:
    """The same run, longer: its folder is this one now."""
    shutil.rmtree(folder, ignore_errors=True)
    source.rename(folder)


def _copy(source: Path, folder: Path) -> None:
    """States, rows and validations of another run; that run's folder stays as it is. Whole or not at all."""
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if not path.is_file() or not inside.parts[0].startswith(("state-", "rows.jsonl", "validation")):
            continue
        if inside.parts[0].startswith("state-"):
            link(path, partial / inside)  # never written again: one copy on the disk
        else:
            (partial / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, partial / inside)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


# ---- after a run ----------------------------------------------------------------------------------------------------


def tidy(folder: Path) -> None:
    """When a run has finished: of it the last state stays, of the stage's other finished runs none.

    What is unfinished stays: nobody else has that work. Records and rows stay for ``reel log``.
    """
    kept = state.complete(folder)[:1]
    for path in [*folder.glob("*state-*"), *folder.glob(".state-*")]:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)
    for other in folder.parent.iterdir():
        with contextlib.suppress(stage.StageError):  # what cannot be read at the moment stays
            one = earlier(other) if other != folder else None
            if one is not None and one.finished:
                forget(other)


def forget(folder: Path) -> None:
    """Remove the states and validation pictures of a run, not its record."""
    for path in [*folder.glob("*state-*"), *folder.glob(".state-*"), folder / "validation"]:
        shutil.rmtree(path, ignore_errors=True)
