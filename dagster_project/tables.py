"""What `reel` prints: tables of stages, reasons, times and verdicts. Plain text, no carriage returns."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from dagster_dvc.project import DvcProject
from dagster_dvc.results import headline, read_metrics, verdicts

if TYPE_CHECKING:
    from dagster_dvc.repro import Result
    from dagster_dvc.runner import Summary
    from dagster_dvc.status import Reason

WORDS = {
    "executed": "done",
    "unchanged": "reused",
    "restored": "from cache",
    "failed": "FAILED",
    "busy": "BUSY",
    "stopped": "stopped",
}
MARKS = {"pass": "pass", "warn": "WARN", "fail": "FAIL"}


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.4 s, 41 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def table(rows: Iterable[Sequence[str]], header: Sequence[str]) -> str:
    """Columns padded to their widest cell; the last column is free."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header) - 1)]
    padded = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]) for line in lines
    ]
    return "\n".join(line.rstrip() for line in padded)


def summary(project: DvcProject, run: Summary) -> str:
    """What each stage of a run made, how it went, how long it took, its numbers and its gates."""
    rows = []
    for name in project.stages:
        result = run.results.get(name)
        if result is None and name not in run.not_started:
            continue
        made = ", ".join(out.path for out in project.stages[name].data_outs)
        word = WORDS[result.outcome] if result else "not started"
        took = duration(result.seconds) if result and result.outcome != "unchanged" else "-"
        rows.append([name, word, took, made, _findings(project, name) if result and result.succeeded else ""])
    return table(rows, ["stage", "outcome", "time", "made", "found"])


def nothing_to_do(project: DvcProject) -> str:
    """What to say where no stage is stale: "up to date" only of stages that are all known."""
    if project.problems:
        return "Nothing else is stale, but not every stage could be looked at: see the lines above."
    if not project.stages:
        return "dvc.yaml has no stages: there is nothing that could be up to date."
    return "Everything is up to date."


def _findings(project: DvcProject, name: str) -> str:
    stage = project.stages[name]
    metrics = read_metrics(project, stage)
    numbers = [f"{key} {value:.4g}" for key, value in headline(stage, metrics).items()]
    gates = [f"[{gate.name} {MARKS[gate.verdict]}]" for gate in verdicts(stage, metrics)]
    return "  ".join([*numbers, *gates])


def gates(project: DvcProject, names: Iterable[str]) -> list[str]:
    """One line for every gate that did not pass."""
    lines = []
    for name in names:
        stage = project.stages[name]
        metrics = read_metrics(project, stage)
        lines += [f"{name}: {gate}" for gate in verdicts(stage, metrics) if metrics and gate.verdict != "pass"]
    return lines


def failure(result: Result, restored: bool) -> str:
    """The error of a stage, for the top of a report."""
    lines = [f"{result.stage}: {WORDS[result.outcome]} after {duration(result.seconds)}", *_indented(result.error)]
    if restored:
        lines.append("  Its earlier outputs are back in place.")
    return "\n".join(lines)


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


def stale(reasons: Mapping[str, list[Reason]], project: DvcProject, running: Mapping[str, Mapping[str, object]]) -> str:
    """Every stage: fresh, stale and why, or running and how far."""
    import time

    rows = []
    for name in project.stages:
        if name in running:
            facts = running[name]
            began = f"for {duration(time.time() - float(str(facts['since'])))} " if facts["since"] else ""
            rows.append([name, "running", f"{began}(pid {facts['pid']}): {facts['line']}"])
        elif name in project.set_aside:
            rows.append([name, "aside", f"runs when it is named: reel run {name}"])
        elif name in reasons:
            why = "; ".join(str(reason) for reason in reasons[name][:3])
            more = len(reasons[name]) - 3
            rows.append([name, "stale", why + (f"; and {more} more" if more > 0 else "")])
        else:
            rows.append([name, "fresh", ""])
    return table(rows, ["stage", "state", "why"])


def work(names: Collection[str], seconds: Mapping[str, float], measured: Collection[str]) -> str:
    """How many stages that is and how much work, and where the times are from."""
    known = [name for name in names if name in seconds]
    said = f", about {duration(sum(seconds[name] for name in known))} of work" if known else ""
    unknown = f", {len(names) - len(known)} of unknown length" if len(known) < len(names) else ""
    about = '\n"about": what dvc.yaml says of the shipped settings; after the first run it is what this machine took.'
    return f"\n{len(names)} stages{said}{unknown}{'' if set(known) <= set(measured) else about}"


def plan(reasons: Mapping[str, list[Reason]], seconds: Mapping[str, float], measured: Container[str]) -> str:
    """What would run, how long it took here or is said to take, and why."""
    rows = []
    for name, why in reasons.items():
        took = ("" if name in measured else "about ") + duration(seconds[name]) if name in seconds else "unknown"
        rows.append([name, took, "; ".join(str(reason) for reason in why[:2])])
    return table(rows, ["stage", "time", "why"])


def under_way(names: Collection[str], running: Mapping[str, Mapping[str, object]]) -> str:
    """A line for each of these stages that runs now, here or elsewhere; empty where none does."""
    return "".join(
        f"\n{name} is running already (pid {running[name]['pid']}): {running[name]['line']}"
        for name in names
        if name in running
    )
