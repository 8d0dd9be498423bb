"""The record of a run of any stage: written before it starts, completed at its end or its crash.

It answers what seed C's logging contract asks of every experiment: header, data with shard range and count, model and
what of it is frozen, the choices that make representations comparable (:data:`CONTRACT`), runtime, results, decision.
What does not apply is absent, with a reason. :func:`recorded` does all of it for a stage that knows nothing of records;
a stage may add sections by ``stage.current().experiment.put(…)``, as a training run does.

Records stand at ``.work/<stage>/<run id>/record.json``, so they survive a crash, and hold what differs between two
identical runs: commit, versions, machine, times, resumes. ``checkpoint.json`` holds what does not. ``reel log`` shows
them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipelines import chain, clip_chains, origin, run_facts, stage
from pipelines.credentials import without_credentials
from pipelines.described import data_facts, read_json, stated
from pipelines.origin import ReadArtifact
from pipelines.starting import WRITTEN

STARTS = ("init", "parent")
"""Names under which a training reads the checkpoint that it goes on from; every other one stays as it is."""
FILE = "record.json"
"""Name of a record in the folder of its run."""

CONTRACT: dict[str, tuple[frozenset[str], str]] = {
    "quantiser": (frozenset({"quantiser", "num_classes"}), "it makes and reads no classes"),
    "sampling": (
        frozenset(
            {
                *("class_balance", "prompt_dropout", "class_dropout", "draw", "mask", "augmentation", "sampling"),
                *("queries", "positives", "negatives", "neighbours", "max_samples", "baseline_samples", "num_prompts"),
            }
        ),
        "it takes every sample as it comes",
    ),
    "phi": (frozenset({"features", "embedding", "spectrum_feature", "rankme_feature"}), "it compares no features"),
    "temperatures": (frozenset({"tau", "taus", "temperature", "temperatures"}), "it has no kernel"),
    "normalisation": (frozenset({"alignment", "ridge", "normalisation", "whiten"}), "its parameters name none"),
}
"""Choices that the contract asks for: the keys of ``params.yaml`` that state each, and why a stage has none."""


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


# ---- what a stage reads and chooses -------------------------------------------------------------------------------


def sources(paths: Mapping[str, Path], known: Mapping[str, ReadArtifact] | None = None) -> dict[str, dict[str, Any]]:
    """Each artifact that is read: where it stands, its digest (where it is not ``known``), what it says of itself."""
    known = known or {}
    return {
        name: {**asdict(known.get(name) or origin.source(path)), **data_facts(path)}
        for name, path in paths.items()
        if path.exists()
    }


def choices(params: Mapping[str, Any], data: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """:data:`CONTRACT` as this run answers it, by its parameters and by what it reads; ``absent`` says why not."""
    found: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for name, (keys, reason) in CONTRACT.items():
        read = {f"{key}.{part}": facts[part] for key, facts in data.items() for part in sorted(keys & facts.keys())}
        answer = stated(params, keys) | read
        if answer:
            found[name] = answer
        else:
            absent[name] = reason
    return {**found, "absent": absent}


def read_checkpoints(paths: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Networks that a stage reads by checkpoint: path, digest, and whether it leaves them as they are."""
    known = {name: path for name, path in paths.items() if (path / "checkpoint.json").is_file()}
    return {name: {**asdict(origin.source(path)), "frozen": name not in STARTS} for name, path in known.items()}


# ---- how it is judged ---------------------------------------------------------------------------------------------


def baseline(
    name: str, value: float, comparison: Literal["<", ">"], threshold: float, reason: str, samples: int
) -> dict[str, Any]:
    """A number beside what costs nothing to reach, as a gate is written; ``reason`` says what reaches the threshold,
    ``samples`` over how many samples the number is."""
    passed = value < threshold if comparison == "<" else value > threshold
    judged = {"threshold": threshold, "comparison": comparison, "verdict": "pass" if passed else "fail"}
    return {"name": name, "value": value, "reason": reason, "samples": samples, **judged}


def decision(results: Mapping[str, Any]) -> dict[str, Any]:
    """Keep or drop, and why: by the gates of the results and by their baselines, of which one that wins is a reason to
    drop; without both a person decides.
    """
    by = " and ".join(name for name in ("gates", "baselines") if results.get(name))
    if not by:
        return {"verdict": "open", "because": "the stage has no gates and no baselines", "by": "program"}
    gates = [*(results.get("gates") or []), *(results.get("baselines") or [])]
    shown = [_judged(gate) for gate in gates]
    failed = [text for gate, text in zip(gates, shown, strict=True) if gate["verdict"] == "fail"]
    return {"verdict": "drop" if failed else "keep", "because": "; ".join(failed or shown), "by": by}


def _judged(gate: Mapping[str, Any]) -> str:
    value = f"{gate['value']:.4g}" if "value" in gate else "not available"
    return f"{gate['name']} {value} {gate['comparison']} {gate['threshold']:g}: {gate['verdict']}"


# ---- the record ---------------------------------------------------------------------------------------------------


def header(run_id: str) -> dict[str, Any]:
    """Which run this is, started how, of which code."""
    context, commit = stage.current(), origin.commit()
    return {
        "stage": context.name,
        "run_id": run_id,
        "command": [without_credentials(word) for word in origin.command(context.command)],
        "code": {"identity": context.code or None, **commit, "branch": origin.branch() if commit else None},
    }


class Experiment:
    """One run's record on disk. Without a path (a process that writes no files) nothing is kept."""

    def __init__(self, path: Path | None = None) -> None:
        self.path: Path | None = None
        self.content: dict[str, Any] = {}
        self._is_told = False
        self.settle(path)

    def settle(self, path: Path | None) -> None:
        """Be the record at this path from now on: a stage that knows better which run it is moves here."""
        if path == self.path:
            return
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something else lies there
                self.path.parent.rmdir()
        self.path, self.content = path, {}
        if path is not None:
            self.content = read_json(path)

    @property
    def is_open(self) -> bool:
        """Whether a run is under way whose end is not recorded."""
        return self.content.get("status") == "running"

    def put(self, **sections: Any) -> None:
        """Merge into the record and write it, whole or not at all."""
        if self.path is None:
            return
        for name, value in sections.items():
            known = self.content.get(name)
            self.content[name] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
        try:
            stage.write_json(self.path, self.content)
        except OSError as error:  # the run does not need it
            if not self._is_told:
                stage.say(f"warning: the run's record {self.path} is not written ({error.strerror or error})")
            self._is_told = True

    def begin(self, header: Mapping[str, Any], **sections: Any) -> None:
        """Before the first step. A run that resumes keeps when it began, and lists when it was taken up again."""
        known = self.content.get("header")
        times = {"began_at": now()}
        if known:
            times = {"began_at": known["began_at"], "resumed_at": [*known.get("resumed_at", []), now()]}
        open_end = {"status": "running", "pid": os.getpid(), "error": None}
        self.put(**open_end, header={**header, **times, "ended_at": None}, **sections)
        self.put(runtime=_of_a_job())  # a training that takes the record over is of the same job

    def end(self, status: str, error: str | None = None, **sections: Any) -> None:
        """``status``: finished, stopped or failed."""
        self.put(status=status, error=error, header={"ended_at": now()}, **sections)

    def conclude(self, spent: Mapping[str, Any], results: Mapping[str, Any], curves: str | None) -> None:
        """The run is finished: what it took, what it reached, and the decision, unless a person has made one."""
        known = self.content.get("decision") or {}
        made = known if known.get("by") == "person" else decision(results)
        self.end("finished", runtime=spent, results={**results, "curves": curves}, decision=made)

    @contextlib.contextmanager
    def watched(self, spent: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
        """Inside, an error or a stop completes the record; a full disk must not hide the error that led here."""
        try:
            yield
        except BaseException as error:
            if self.is_open:
                is_stop = isinstance(error, (stage.Stopped, KeyboardInterrupt))
                with contextlib.suppress(OSError):
                    told = without_credentials(f"{type(error).__name__}: {error}")
                    self.end("stopped" if is_stop else "failed", told, runtime=spent())
            raise


# ---- any stage ----------------------------------------------------------------------------------------------------


def _of_a_job() -> dict[str, str]:
    """The cluster's job that this process is of; its accounting is added when it has ended (:mod:`pipelines.slurm`)."""
    return {"job": os.environ["SLURM_JOB_ID"]} if "REEL_JOB_FOLDER" in os.environ else {}


def _run_id(values: Mapping[str, Any], data: Mapping[str, Mapping[str, Any]]) -> str:
    content = {"params": values, "inputs": {name: facts["digest"] for name, facts in data.items()}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@contextlib.contextmanager
def recorded(values: Mapping[str, Any], paths: Mapping[str, Path]) -> Iterator[None]:
    """Inside, a stage runs: its record says so before, and afterwards what came of it.

    Args:
        values: its section of the parameters.
        paths: its path flags; all but :data:`pipelines.starting.WRITTEN` are read.
    """
    context = stage.current()
    if context.work is None or os.environ.get("RANK", "0") != "0":
        yield
        return
    read = {name: path for name, path in paths.items() if name not in WRITTEN}
    data = sources(read)
    run_id = _run_id(values, data)
    experiment = context.experiment = Experiment(context.work / run_id / FILE)
    if experiment.content.get("status") == "finished":  # the same once more, from its start
        experiment.content.pop("header")
    experiment.begin(
        header(run_id),
        data=data,
        model={"read": read_checkpoints(read)},
        contract=choices(values, data),
        params=dict(values),
        runtime={"hardware": origin.hardware(), "environment": origin.environment()},
    )
    began = time.monotonic()

    def spent() -> dict[str, Any]:
        seconds = round(time.monotonic() - began, 1)
        return {"seconds": seconds, "hardware": origin.hardware(), "memory/peak_gib": round(origin.peak_gib(), 3)}

    with experiment.watched(spent):
        yield
        if "out" in paths and paths["out"].is_dir():
            places = {name: origin.inside(one) for name, one in read.items()}
            clip_chains.tell(paths["out"], node(values, paths), read, places)
            chain.carry(paths["out"], node(values, paths), read, places)
    if experiment.is_open:
        experiment.conclude(spent(), *_results(paths))
    if "out" in paths:
        run_facts.finish(paths["out"], experiment.content)


def node(values: Mapping[str, Any], paths: Mapping[str, Path]) -> dict[str, Any]:
    """What a stage's artifact says of itself in its chain: equal for every identical run."""
    context, out = stage.current(), paths["out"]
    record, results = read_json(out / "checkpoint.json"), _results(paths)[0]
    return {
        "stage": context.name,
        "path": origin.inside(out),
        "params": dict(values),
        "seed": stated(values, frozenset({"seed"})),
        "code": context.code or None,
        "command": origin.command(context.command),
        "environment": origin.environment(),
        "step": record.get("step"),
        "segments": record.get("segments"),
        "facts": data_facts(out),
        "gates": [*(results.get("gates") or []), *(results.get("baselines") or [])],
    }


def _results(paths: Mapping[str, Path]) -> tuple[dict[str, Any], str | None]:
    """The metrics that the stage wrote, and where its curves are."""
    if "metrics" not in paths:
        return {"unavailable": {"metrics": "the stage writes no metrics"}}, None
    curves = paths["plots"] / "training.csv" if "plots" in paths else None
    found = read_json(paths["metrics"])
    return found, origin.inside(curves) if curves is not None and curves.is_file() else None
