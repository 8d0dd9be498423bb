"""A whole training step of the drifting refiner against the regression step of the same network.

Network, encoder, problems, batch and optimizer are those of `params.yaml`; latents are random numbers of the demo's
shape, as many clips as the demo trains on, and no file is read. A step is forward, backward, clipping and update. The
regression refines as many clips of each as the drift does (and, beside it, as few as the section's own regression);
then the same with a network whose blocks are twice as wide and twice as many: what the encoder costs does not grow with
it. The features of clips are kept once they have been seen: a step with a drift is timed when all have been, and the
drift of the whole section from its beginning, when none have.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch

from benchmarks.paired import Figure, cpu_seconds, ratios
from pipelines.document import read_document
from pipelines.generation.drifting.features import FeatureSpaces
from pipelines.generation.drifting.objective import DriftingRefiner
from pipelines.generation.drifting.params import DriftingRefinerParams
from pipelines.models.denoiser import VideoDenoiser
from pipelines.models.latent_mae import LatentMae
from pipelines.models.refiner import Refiner
from pipelines.training.optimizers import NetworkOptimizer

SHAPE, WORDS, CLASSES, CLIPS = (16, 5, 8, 8), (18, 128), 12, 840
"""The demo's latents C T H W, tokens of a prompt and their width, pseudo-classes, training clips."""
ROUNDS, SOME = 5, 16
LARGER = {"heads": 6, "feed_forward": 768, "layers": 6}


def refiner_params(samples: int | None = None, **network: int) -> DriftingRefinerParams:
    """The section in float32; ``samples`` of each clip in its regression, another ``network``."""
    section = read_document(Path("params.yaml"))[0]["drifting_refiner"]
    section["refiner"] |= network
    section["training"]["precision"] = "fp32"
    if samples is not None:
        section["regression"]["spread"]["samples"] = samples
    return DriftingRefinerParams.model_validate(section)


def batch(params: DriftingRefinerParams, clips: torch.Tensor, turn: int) -> dict[str, Any]:
    """What the reader gives one step after another, of random ones of the ``clips``."""
    assert params.drift is not None
    size, group = params.training.batch_size, params.drift.group
    units, draw = size // group.clips, torch.Generator().manual_seed(turn)
    sizes = [size, units * group.positives, units * group.unconditional]
    rows, positives, unconditional = torch.randperm(len(clips), generator=draw)[: sum(sizes)].split(sizes)
    return {
        "latents": clips[rows],
        "rows": rows,
        "prompt_embeds": torch.randn(size, *WORDS),
        "prompt_mask": torch.ones(size, WORDS[0], dtype=torch.bool),
        "pseudo_class": torch.arange(units).repeat_interleave(group.clips) % CLASSES,
        "draw": torch.arange(size) + size * turn,
        "positives": clips[positives].unflatten(0, (units, -1)),
        "positives_rows": positives.view(units, -1),
        "present": torch.ones(units, group.positives, dtype=torch.bool),
        "unconditional": clips[unconditional].unflatten(0, (units, -1)),
        "unconditional_rows": unconditional.view(units, -1),
    }


def trained(params: DriftingRefinerParams, number: int, seen: bool = True) -> Callable[[], None]:
    """One update after another of a new network at the step ``number``; ``seen``: no clip is new to it."""
    torch.manual_seed(0)
    architecture = read_document(Path("params.yaml"))[0]["latent_mae"]["architecture"]
    assert params.drift is not None
    features = FeatureSpaces(params.drift.features, LatentMae(SHAPE[0], architecture))
    sizes = params.refiner.model_dump()
    sizes["text_length"] += 1
    denoiser = VideoDenoiser.build(channels=SHAPE[0], text_dim=WORDS[1], num_classes=CLASSES, **sizes)
    network = Refiner(denoiser, False)
    objective = DriftingRefiner(network, params, torch.zeros(1, WORDS[1]), features)
    optimizer, clips, turns = NetworkOptimizer(network, params.training.optimizer), torch.randn(CLIPS, *SHAPE), count()
    for start in range(0, CLIPS, SOME) if seen and objective.drifts(number) else ():
        objective._views(clips[start : start + SOME], list(range(start, min(start + SOME, CLIPS))))

    def call() -> None:
        objective.losses(batch(params, clips, next(turns)), number)["refiner"].loss.mean().backward()
        optimizer.clip(params.training.max_grad_norm or 1.0, lambda _: None)
        optimizer.step(1.0)

    return call


def from_the_beginning() -> Figure:
    """All steps with a drift that the section makes, with no clip seen before: their time over that of as many others.

    The first of both is counted, too.
    """
    params = refiner_params()
    assert params.drift is not None
    steps = params.training.steps - params.drift.begin
    drifting = trained(params, params.drift.begin, seen=False)
    regression = trained(refiner_params(params.drift.samples), 0)
    taken = [(cpu_seconds(drifting), cpu_seconds(regression)) for _ in range(steps)]
    whole = sum(ours for ours, _ in taken) / sum(theirs for _, theirs in taken)
    return Figure(
        f"training step of the drifting refiner, the demo's network, mean of its {steps} steps with a drift",
        "from when no clip has been seen",
        f"regression of {params.drift.samples} samples of each clip",
        "x its time",
        (whole,),
        "no target",
    )


def measure() -> list[Figure]:
    """The demo's network against its regression at equal and at its own samples, then a larger network."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    figures = []
    drift = refiner_params().drift
    assert drift is not None
    rows = (
        ("the demo's network", {}, drift.samples, "target at most 1.5"),
        ("the demo's network, regression as it stands", {}, None, "no target"),
        ("twice as wide, twice as deep", LARGER, drift.samples, "target at most 1.5"),
    )
    try:
        for name, network, samples, target in rows:
            drifting = trained(refiner_params(**network), drift.begin)
            regression = trained(refiner_params(samples, **network), 0)
            figures.append(
                Figure(
                    f"training step of the drifting refiner, {name}", "a step with the drift",
                    f"regression of {samples or 'fewer'} samples of each clip", "x its time",
                    ratios(drifting, regression, ROUNDS), target,
                )
            )  # fmt: skip
        figures.append(from_the_beginning())
    finally:
        torch.set_num_threads(threads)
    return figures
