"""What a training run adds to its record before its first step: batch size, steps, precision, networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from pipelines import origin
from pipelines.origin import ReadArtifact
from pipelines.record import FILE, choices, header, read_checkpoints, sources
from pipelines.training.sharding import own_class

if TYPE_CHECKING:
    from pipelines.training.run import Run


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


def runtime_facts(run: Run) -> dict[str, Any]:
    """What the run will take, on which machine, with which versions."""
    return {
        "batch_size": run.training.batch_size,
        "steps": run.training.steps,
        "precision": run.precision,
        "hardware": origin.hardware(run.device.type),
        "environment": origin.environment(),
    }


def begin_record(run: Run, read: Mapping[str, Path], known: Mapping[str, ReadArtifact]) -> None:
    """Before the first step: what is read, chosen and spent. The networks are added when they are built."""
    run.experiment.settle(run.work / FILE if run.is_main else None)
    if not run.is_main:
        return
    values, data = run.params.model_dump(mode="json"), sources(read, known)
    run.experiment.begin(
        {**header(run.run_id), "stage": run.name},
        data=data,
        model={"read": read_checkpoints(read)},
        contract=choices(values, data),
        params=values,
        runtime=runtime_facts(run),
    )
