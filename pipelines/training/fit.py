"""What fits on this machine: a few steps of a stage per choice, with peak memory and step time: ``reel fit --help``.

Every choice runs in a process of its own on the stage's own data, in a temporary folder: no output, metric, state or
parameter of the project is touched.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from pipelines import stage
from pipelines.commands import stage_commands, stage_words
from pipelines.origin import peak_gib
from pipelines.params import ParamsError, parse_section, read_document, section_class
from pipelines.progress import Progress
from pipelines.stage import StageError
from pipelines.starting import WRITTEN
from pipelines.training import fit_blocks
from pipelines.training.precision import chosen_device

NEVER = 10**9
LOOK_SECONDS = 0.003
"""Between two looks at the memory of the process; a layer of a network that fills a machine takes longer."""
RESULT = "reel-fit-result "
KNOBS = ("micro_batch", "gradient_checkpointing", "precision")


class Trial(Progress):
    """Counts steps instead of printing them, and asks the stage to stop after enough.

    The first is neither timed nor is its memory: what a stage measures before it trains is often larger than a step.
    """

    def __init__(self, name: str, steps: int) -> None:
        super().__init__(name)
        self.steps, self.times, self.peak = steps, [], 0.0
        self.over, self.on_gpu = threading.Event(), chosen_device().type == "cuda"

    def say(self, text: str) -> None:
        """Nothing."""

    def report(self, done: int, total: int, unit: str = "step", **numbers: float) -> None:
        """Note the time of a step."""
        if unit == "step":
            self.times.append(time.perf_counter())
            if len(self.times) == 1:
                self._watch()
            if self.on_gpu:
                self.peak = peak_gib()
            if len(self.times) > self.steps:
                self.over.set()
                stage.current().stop.set()

    def _watch(self) -> None:
        """From now on the peak counts: the device's own, or what this process holds, looked at again and again."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            return
        process = psutil.Process()

        def look() -> None:
            self.peak = max(self.peak, process.memory_info().rss / 2**30)

        def keep_looking() -> None:
            while not self.over.wait(LOOK_SECONDS):
                look()

        look()
        threading.Thread(target=keep_looking, daemon=True).start()

    @property
    def step_seconds(self) -> float:
        """The median step."""
        return statistics.median(later - earlier for earlier, later in itertools.pairwise(self.times))


def command_of(name: str) -> tuple[str, str, list[str]]:
    """Module, function and flags of a stage of dvc.yaml that trains.

    Raises:
        StageError: there is no such stage, or it trains nothing.
    """
    stages = stage_commands()
    training = [one for one, (module, function, _) in stages.items() if trains(module, function)]
    if name not in training:
        known = f"those are {', '.join(training)}" if training else "there is none in this folder"
        raise StageError(f"{name}: no stage of dvc.yaml that trains; {known}.")
    module, function, *flags = stage_words(read_document(Path("dvc.yaml"))[0]["stages"][name]["cmd"])
    return module, function, flags


def trains(module: str, function: str) -> bool:
    """Whether the section of a stage has a block ``training``."""
    return "training" in section_class(module, function).model_fields


def one(name: str, changes: dict[str, Any], steps: int) -> dict[str, float]:
    """Run a few steps of the stage in this process with changed values of ``training``; peak GiB, seconds per step.

    Raises:
        ParamsError, StageError: as the stage itself, out of memory included.
    """
    module, function, words = command_of(name)
    flags = stage.path_flags(words)
    kind = section_class(module, function)
    section = flags.pop("params")
    values = parse_section(kind, section).model_dump()
    changes, absent = dict(changes), changes.get("absent", [])
    changes.pop("absent", None)
    values = fit_blocks.at_full_weight(fit_blocks.without(section, values, absent))
    values["training"] |= {**changes, "steps": steps + 2, "save_every": NEVER, "validate_every": NEVER}
    params = kind.model_validate(values)
    with tempfile.TemporaryDirectory(prefix="reel-fit-") as folder:
        paths = {key: Path(folder) / key if key in WRITTEN else Path(value) for key, value in flags.items()}
        trial = Trial(name, steps)
        stage.enter(stage.Context(name, Path(folder) / "work", progress=trial))
        try:
            getattr(importlib.import_module(module), function)(params, **paths)
        except stage.Stopped:
            return {"peak_gib": trial.peak, "step_seconds": trial.step_seconds}
    raise StageError(f"{name}: ended before {steps} steps; nothing was measured.")


def measured(name: str, changes: dict[str, Any], steps: int) -> dict[str, Any]:
    """:func:`one` in a process of its own; ``error`` says in one line why a choice does not run."""
    words = [sys.executable, "-m", "pipelines.training.fit", name, "--steps", str(steps), "--one", json.dumps(changes)]
    done = subprocess.run(words, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    if found:
        return json.loads(found[-1].removeprefix(RESULT))
    if done.returncode < 0:
        return {"error": f"ended by signal {-done.returncode}: the system had no more memory"}
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return {"error": last}


def choices(training: Any, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """As the parameters are, then one knob at a time; or every combination of what the arguments name."""
    now = {knob: getattr(training, knob) for knob in KNOBS}
    given = {knob: getattr(arguments, knob) for knob in KNOBS if getattr(arguments, knob)}
    if given:
        lists = [given.get(knob, [now[knob]]) for knob in KNOBS]
        return [dict(zip(KNOBS, row, strict=True)) for row in itertools.product(*lists)]
    smaller = [n for n in range(training.micro_batch - 1, 0, -1) if training.batch_size % n == 0]
    halves = [n for n in smaller if n * 2 <= training.micro_batch][:1] + smaller[-1:]
    changed = [{"micro_batch": n} for n in dict.fromkeys(halves)]
    changed.append({"gradient_checkpointing": not training.gradient_checkpointing})
    changed += [{"precision": other} for other in ("fp32", "bf16") if other != training.precision]
    return [now, *({**now, **change} for change in changed)]


def table(rows: Sequence[tuple[dict[str, Any], dict[str, Any]]], batch_size: int) -> str:
    """The measurements as text, a line per choice, with the peak's change from the first; then what lowers it most."""
    names = f"{'micro_batch':>11}  {'accumulate':>10}  {'checkpointing':>13}"
    lines = [f"{names}  precision  peak GiB  change  s/step  samples/s"]
    first = rows[0][1].get("peak_gib")
    for change, found in rows:
        micro = change["micro_batch"]
        start = f"{micro:>11}  {batch_size // micro:>10}  {str(change['gradient_checkpointing']).lower():>13}"
        start += f"  {change['precision']:>9}"
        if "error" in found:
            lines.append(f"{start}  {found['error']}")
            continue
        seconds = found["step_seconds"]
        moved = f"{found['peak_gib'] - first:>+6.2f}" if first is not None else f"{'':>6}"
        lines.append(f"{start}  {found['peak_gib']:>8.2f}  {moved}  {seconds:>6.3g}  {batch_size / seconds:>9.3g}")
    return "\n".join([*lines, *lowest(rows)])


def lowest(rows: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    """A line with the choice of the lowest peak, and what it costs beside the first; none where that is the lowest."""
    (now, base), done = rows[0], [(change, found) for change, found in rows if "error" not in found]
    if "error" in base or len(done) < 2:
        return []
    change, found = min(done, key=lambda row: row[1]["peak_gib"])
    saved, slower = base["peak_gib"] - found["peak_gib"], found["step_seconds"] / base["step_seconds"]
    if saved < 0.005:
        return ["No choice lowers the peak: it is weights, gradients, optimizer, averages and libraries."]
    knobs = ", ".join(f"{knob}: {str(change[knob]).lower()}" for knob in change if change[knob] != now[knob])
    return [f"Lowest peak: {knobs} saves {saved:.2f} GiB ({saved / base['peak_gib']:.0%}), a step takes {slower:.2g}x."]


def parser() -> argparse.ArgumentParser:
    """Words of the command."""
    found = argparse.ArgumentParser(
        prog="reel fit",
        description="Try a few steps of a training stage per choice, and print peak memory and step time. Processor: "
        "the process's resident memory, libraries included; GPU: memory that tensors took. Touches no output.",
    )
    found.add_argument("stage", help="a stage of dvc.yaml that trains; its inputs must be there")
    found.add_argument("--steps", type=int, default=3, help="timed steps per choice (3)")
    found.add_argument("--micro-batch", type=int, nargs="+", help="sizes to try")
    found.add_argument(
        "--checkpointing",
        dest="gradient_checkpointing",
        nargs="+",
        type=lambda word: {"true": True, "false": False}[word],
        metavar="{true,false}",
        help="gradient_checkpointing to try",
    )
    found.add_argument("--precision", nargs="+", choices=("fp32", "bf16", "fp16"), help="precisions to try")
    found.add_argument(
        "--blocks", nargs="+", metavar="BLOCK", help="what each adds, one after the other: adversarial+discriminator …"
    )
    found.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """``reel fit``: measure, print a line per choice; returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        if arguments.one is not None:
            print(RESULT + json.dumps(one(arguments.stage, arguments.one, arguments.steps)), flush=True)
            return 0
        module, function, words = command_of(arguments.stage)
        flags = stage.path_flags(words)
        training = parse_section(section_class(module, function), flags["params"]).training  # type: ignore[attr-defined]
        for flag, value in flags.items():
            if flag not in WRITTEN | {"params"} and not Path(value).exists():
                raise StageError(f"--{flag} {value}: not there; run the stage that makes it first.")
        rows, wanted = [], choices(training, arguments)
        if arguments.blocks:
            values = parse_section(section_class(module, function), flags["params"]).model_dump()
            fit_blocks.without(flags["params"], values, arguments.blocks)
            wanted = fit_blocks.steps(wanted[0], arguments.blocks)
        for change in wanted:
            told = ", ".join(f"{knob} {value}" for knob, value in change.items())
            print(f"measuring {told} …", file=sys.stderr, flush=True)
            rows.append((change, measured(arguments.stage, change, arguments.steps)))
        if arguments.blocks:
            print(fit_blocks.table(arguments.stage, arguments.blocks, [found for _, found in rows]))
        else:
            print(table(rows, training.batch_size))
        return 0 if any("error" not in found for _, found in rows) else 2
    except (ParamsError, StageError) as error:
        print(f"reel fit: {error}", file=sys.stderr, flush=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
