"""The record of a training run: written before the first step, completed at the end or at a crash.

It answers what seed C's logging contract asks of every experiment: header, data, model and loss, runtime, results,
decision. It stands beside the resume state (``.work/<stage>/<run id>/record.json``), so it survives a crash, and holds
what differs between two identical runs (times, machine, resumes); ``checkpoint.json`` holds what does not. ``reel log``
shows it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from pipelines import stage
from pipelines.training import checkpoint
from pipelines.training.sharding import own_class

if TYPE_CHECKING:
    from pipelines.training.run import Run


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def data_facts(folder: Path) -> dict[str, Any]:
    """What a data set says of itself: number of samples, also by split, first and last shard. Empty otherwise."""
    if (folder / "manifest.json").is_file():
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        shards = sorted(manifest.get("shards") or {})
        spread = {"shards": len(shards), "shard_range": [shards[0], shards[-1]]} if shards else {}
        return {"samples": manifest.get("num_samples"), "splits": manifest.get("splits"), **spread}
    if (folder / "catalog.parquet").is_file():
        from pyarrow.parquet import ParquetFile

        return {"samples": ParquetFile(folder / "catalog.parquet").metadata.num_rows}
    return {}


def model_facts(objective: Any) -> dict[str, Any]:
    """The objective, its networks with their sizes, which of them are frozen, and the fields it reads."""
    networks = {name: value for name, value in vars(objective).items() if isinstance(value, nn.Module)}

    def size(name: str) -> dict[str, Any]:
        network = networks[name]
        for wrapper in ("_orig_mod", "module"):  # as it was before it was compiled, or shared by several processes
            network = getattr(network, wrapper, network)
        return {"class": own_class(network).__name__, "parameters": sum(p.numel() for p in network.parameters())}

    return {
        "objective": type(objective).__name__,
        "reads": list(objective.reads),
        "trained": {name: size(name) for name in objective.trained},
        "frozen": {name: size(name) for name in networks if name not in objective.trained},
    }


def baseline(name: str, value: float, comparison: Literal["<", ">"], threshold: float, reason: str) -> dict[str, Any]:
    """A number beside what costs nothing to reach, as a gate is written; ``reason`` says what reaches the threshold."""
    passed = value < threshold if comparison == "<" else value > threshold
    judged = {"threshold": threshold, "comparison": comparison, "verdict": "pass" if passed else "fail"}
    return {"name": name, "value": value, "reason": reason, **judged}


def decision(results: Mapping[str, Any]) -> dict[str, Any]:
    """Keep or drop, and why: by the gates of the results, else by their baselines; without both a person decides."""
    by = next((name for name in ("gates", "baselines") if results.get(name)), None)
    if by is None:
        return {"verdict": "open", "because": "the stage has no gates and no baselines", "by": "program"}
    gates = results[by]
    shown = [f"{g['name']} {g['value']:.4g} {g['comparison']} {g['threshold']:g}: {g['verdict']}" for g in gates]
    failed = [text for gate, text in zip(gates, shown, strict=True) if gate["verdict"] == "fail"]
    return {"verdict": "drop" if failed else "keep", "because": "; ".join(failed or shown), "by": by}


def contract(run: Run, inputs: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """What is known before the first step: header, data and runtime; the model is added when it is built."""
    header = {
        "stage": run.name,
        "run_id": run.run_id,
        "command": checkpoint.command(stage.current().command),
        "code": {
            "identity": stage.current().code or None,
            **run.commit,
            "branch": checkpoint.branch() if run.commit else None,
        },
    }
    sources = {**run.inputs, **({"parent": run.parent} if run.parent else {})}
    data = {
        name: {**asdict(item), **(data_facts(inputs[name]) if name in inputs else {})} for name, item in sources.items()
    }
    runtime = {
        "batch_size": run.training.batch_size,
        "steps": run.training.steps,
        "precision": run.precision,
        "hardware": checkpoint.hardware(run.device, run.accelerator.num_processes),
        "environment": checkpoint.environment(),
    }
    return {"header": header, "data": data, "params": run.params.model_dump(mode="json"), "runtime": runtime}


class Experiment:
    """One run's record on disk. Without a path (a process that writes no files) nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.content: dict[str, Any] = {}
        if path is not None and path.is_file():
            self.content = json.loads(path.read_text(encoding="utf-8"))

    def put(self, **sections: Any) -> None:
        """Merge into the record and write it, whole or not at all."""
        if self.path is None:
            return
        for name, value in sections.items():
            known = self.content.get(name)
            self.content[name] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
        stage.write_json(self.path, self.content)

    def begin(self, header: Mapping[str, Any], **sections: Any) -> None:
        """Before the first step. A run that resumes keeps when it began, and lists when it was taken up again."""
        known = self.content.get("header")
        times = {"began_at": now()}
        if known:
            times = {"began_at": known["began_at"], "resumed_at": [*known.get("resumed_at", []), now()]}
        open_end = {"status": "running", "pid": os.getpid(), "error": None}
        self.put(**open_end, header={**header, **times, "ended_at": None}, **sections)

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
            is_stop = isinstance(error, (stage.Stopped, KeyboardInterrupt))
            with contextlib.suppress(OSError):
                self.end("stopped" if is_stop else "failed", f"{type(error).__name__}: {error}", runtime=spent())
            raise
