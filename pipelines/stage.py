"""A stage is a function: a section of the parameters and path flags become one call.

``python -m pipelines <module> <function> --params <section> --<flag> <path> …`` is what the launcher starts on every
process. A test calls the function directly; then :func:`current` gives a context with the same abilities.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import inspect
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import machine, peers
from pipelines.outputs import whole_folder  # noqa: F401  one address for what a stage writes with
from pipelines.params import PARAMS_FILE, ParamsError, TrackingParams, parse_section, read_document, section_class
from pipelines.progress import Progress, complain

STOPPED = 143  # exit code of a stage that was asked to stop and saved its state
LEFT = 75  # exit code of a launcher that leaves its job running on a cluster
CHAIN, RUNS = "lineage.json", "lineage.runs.json"
BESIDE = (CHAIN, RUNS)
"""Where an artifact says what it came from (:mod:`pipelines.chain`) and who ran it when (:mod:`pipelines.run_facts`):
not part of what it is, and DVC passes over the second."""
CODE, CONTINUE, ANEW = "REEL_CODE", "REEL_CONTINUE", "REEL_ANEW"
"""Variables: the identity of the stage's code; a person asks to go on from a state that other code, or a run of another
length, has left; the launcher hands on ``dvc repro --force`` (no state of an earlier run is gone on from)."""
STOPPED_NOTE = "stopped"
"""File of a stage's work folder that its first process leaves when it ends so: torchrun ends with 1 all the same."""


class StageError(ValueError):
    """A stage cannot do its work, told in one or two lines: what, where, why, what to do."""


class Stopped(BaseException):
    """A signal asked the stage to stop; its state is saved."""


@dataclass
class Context:
    """What surrounds a running stage. ``work`` is None when the stage is called without a command line.

    ``code`` is the identity of the code that runs: one hash of the definitions the stage reaches, empty when the stage
    is called without a launcher.
    """

    name: str = "stage"
    work: Path | None = None
    command: tuple[str, ...] = ()
    code: str = ""
    tracking: TrackingParams = field(default_factory=lambda: TrackingParams(wandb=None))
    progress: Progress = field(default_factory=lambda: Progress("stage"))
    stop: threading.Event = field(default_factory=threading.Event)
    began: float = field(default_factory=time.monotonic)
    anew: bool = False  # no state of an earlier run is gone on from
    carry_on: bool = False  # a person asked to go on from what other code, or a run of another length, has left
    experiment: Any = None  # the record of this run (:class:`pipelines.record.Experiment`) under a launcher

    def work_folder(self, out: Path) -> Path:
        """Where resume state of the stage that makes ``out`` lives: never inside an output, DVC deletes those."""
        return self.work if self.work is not None else out.parent / ".work" / out.name


_CURRENT: ContextVar[Context | None] = ContextVar("stage", default=None)
_SAVES_ON_STOP = threading.Event()


def current() -> Context:
    """The running stage's context; a default one where no launcher set it."""
    context = _CURRENT.get()
    if context is None:
        context = Context()
        _CURRENT.set(context)
    return context


def enter(context: Context) -> None:
    """Make this the running stage's context, in this thread."""
    _CURRENT.set(context)


def say(text: str) -> None:
    """One line about the running stage, to the terminal and to Dagster."""
    current().progress.say(text)


def report(done: int, total: int, unit: str = "step", **numbers: float) -> None:
    """Progress of the running stage: throttled, with an estimate of the time left."""
    current().progress.report(done, total, unit, **numbers)


# ---- outputs ------------------------------------------------------------------------------------------------------


def _finite(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(part, f"{where}.{key}") for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part, f"{where}[{index}]") for index, part in enumerate(value)]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise StageError(f"metric {where} is {value}: leave it out and name the reason under `unavailable`.")
    return value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write whole or not at all, keys sorted, every number finite.

    Raises:
        StageError: a number is NaN or infinite (JSON has no word for it, and zero would be a lie).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(content, path.stem), indent=2, sort_keys=True, allow_nan=False) + "\n"
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


@contextlib.contextmanager
def bookkeeping(what: str) -> Iterator[None]:
    """Inside, what is beside the work is written: where it cannot be, that is one warning, and the work goes on."""
    try:
        yield
    except OSError as error:
        say(f"warning: {what} is not written ({error.strerror or error})")


def write_metrics(path: Path, content: Mapping[str, Any]) -> None:
    """The stage's metrics file: finite numbers, ``gates``, ``unavailable: {name: reason}``, and how long it took."""
    context = current()
    launched = {"seconds": round(time.monotonic() - context.began, 1)} if context.work is not None else {}
    write_json(path, {**launched, **content})


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(path: Path) -> str:
    """What identifies an artifact: the hash of the file in which it describes its own content.

    A checkpoint is its weights (times and hosts in its record do not count), a data set is its manifest, clips are
    their catalog; any other folder is the names and bytes of its files, but of where it came from.
    """
    if (path / "checkpoint.json").is_file():
        weights = json.loads((path / "checkpoint.json").read_text(encoding="utf-8")).get("weights")
        return hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()
    for name in ("manifest.json", "catalog.parquet"):
        if (path / name).is_file():
            return file_digest(path / name)
    if path.is_dir():
        names = sorted(part for part in path.rglob("*") if part.is_file() and part.name not in BESIDE)
        lines = [f"{part.relative_to(path).as_posix()} {file_digest(part)}" for part in names]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return file_digest(path)


# ---- stopping -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def saves_on_stop() -> Iterator[threading.Event]:
    """Inside, SIGTERM and SIGINT only set the event: the caller saves and raises :class:`Stopped`.

    A second signal changes nothing (DVC and a supervisor may both send one); the launcher ends what outstays its grace.
    """
    _SAVES_ON_STOP.set()
    try:
        yield current().stop
    finally:
        _SAVES_ON_STOP.clear()


def _on_signal(number: int, _frame: object) -> None:
    again = current().stop.is_set()  # torchrun and the launcher both send one; the second must not break the end
    current().stop.set()
    if not again and not _SAVES_ON_STOP.is_set():
        raise Stopped(f"stopped by {signal.Signals(number).name}")


# ---- the call -----------------------------------------------------------------------------------------------------


def path_flags(arguments: list[str]) -> dict[str, str]:
    """``--latents data/latents --out x`` as a dictionary.

    Raises:
        StageError: a word is not a flag, or a flag has no value.
    """
    flags = {}
    words = iter(arguments)
    for word in words:
        value = next(words, None)
        if not word.startswith("--") or value is None:
            raise StageError(f"cannot read {word!r}: stage commands are pairs of --flag and path.")
        flags[word[2:].replace("-", "_")] = value
    return flags


def call(module: str, function: str, arguments: list[str]) -> None:
    """Read the parameters, import the stage and call it.

    Raises:
        ParamsError: the section is wrong. StageError: the flags do not fit the function's signature.
    """
    flags = path_flags(arguments)
    section = flags.pop("params", None)
    if section is None:
        raise StageError(f"{module} {function}: --params <section> is missing.")
    params = parse_section(section_class(module, function), section)
    stage_function = getattr(importlib.import_module(module), function)
    if told := machine.unused_gpu():
        say(told)
    paths = {name: Path(value) for name, value in flags.items()}
    try:
        inspect.signature(stage_function).bind(params, **paths)
    except TypeError as error:
        raise StageError(f"{module} {function}: {error}; the flags of `cmd` in dvc.yaml name its arguments.") from None
    from pipelines.record import recorded  # it writes its files by this module

    with recorded(params.model_dump(mode="json"), paths):
        stage_function(params, **paths)


REFUSALS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room (`dvc gc -w` drops old results)"),
    errno.EFBIG: "raise the limit on file sizes (`ulimit -f`)",
    **dict.fromkeys((errno.EROFS, errno.EACCES), "let this user read and write there"),
}
"""What a disk says when it is full, read-only, not ours or limited, and what to do."""


def refused_by_disk(error: BaseException) -> str | None:
    """One line for an error of :data:`REFUSALS`, None for every other.

    Libraries that raise no OSError (safetensors) name the system's error in their text.
    """
    for number, remedy in REFUSALS.items():
        if getattr(error, "errno", None) == number or f"(os error {number})" in str(error):
            where = getattr(error, "filename", None) or f"below {Path.cwd()}"
            return f"{where}: {os.strerror(number)}. Nothing is half written: {remedy}, and run it again."
    return None


def _tracking() -> TrackingParams:
    if "tracking" not in read_document(PARAMS_FILE)[0]:
        return TrackingParams(wandb=None)
    tracking = parse_section(TrackingParams, "tracking")
    assert isinstance(tracking, TrackingParams)
    return tracking


def main(argv: list[str] | None = None) -> int:
    """Run one stage in this process; returns the exit code."""
    module, function, *arguments = sys.argv[1:] if argv is None else argv
    name = os.environ.get("REEL_STAGE") or path_flags(arguments).get("params", function)
    command = (module, function, *arguments)
    context = Context(name, Path(".work") / name, command, os.environ.get(CODE, ""), progress=Progress(name))
    context.anew, context.carry_on = (os.environ.get(word, "") not in ("", "0") for word in (ANEW, CONTINUE))
    enter(context)
    signal.signal(signal.SIGTERM, _on_signal)
    signal.signal(signal.SIGINT, _on_signal)
    try:
        context.tracking = _tracking()
        call(module, function, arguments)
        return 0
    except (ParamsError, StageError) as error:
        complain(name, error)
        return 2
    except Stopped as stopped:
        complain(name, stopped)
        if os.environ.get("RANK", "0") == "0" and context.work is not None:
            with contextlib.suppress(OSError):
                (context.work / STOPPED_NOTE).touch()
        return STOPPED
    except Exception as error:
        reason, cut_off = refused_by_disk(error), peers.lost(error)
        if reason is None and cut_off is None:
            raise
        complain(name, reason or cut_off)
        return 2 if reason else peers.LOST_CODE
    finally:
        context.progress.close()
