"""A whole training step of the drifting refiner against the regression step of the same network.

Network, encoder, problems, batch and optimizer are those of `params.yaml`; latents are random numbers of the demo's
shape, and no file is read. A step is forward, backward, clipping and update. The regression refines as many clips of
each as the drift does (and, beside it, as few as the section's own regression); then the same with a network whose
blocks are twice as wide and twice as many: what the encoder costs does not grow with it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.paired import Figure, ratios
from pipelines.document import read_document
from pipelines.generation.drifting.features import FeatureSpaces
from pipelines.generation.drifting.objective import DriftingRefiner
from pipelines.generation.drifting.params import DriftingRefinerParams
from pipelines.models.denoiser import VideoDenoiser
from pipelines.models.latent_mae import LatentMae
from pipelines.models.refiner import Refiner
from pipelines.training.optimizers import NetworkOptimizer

SHAPE, WORDS, CLASSES = (16, 5, 8, 8), (18, 128), 12
"""The demo's latents C T H W, tokens of a prompt and their width, pseudo-classes."""
ROUNDS = 5
LARGER = {"heads": 6, "feed_forward": 768, "layers": 6}


def refiner_params(samples: int | None = None, **network: int) -> DriftingRefinerParams:
    """The section in float32; ``samples`` of each clip in its regression, another ``network``."""
    section = read_document(Path("params.yaml"))[0]["drifting_refiner"]
    section["refiner"] |= network
    section["training"]["precision"] = "fp32"
    if samples is not None:
        section["regression"]["spread"]["samples"] = samples
    return DriftingRefinerParams.model_validate(section)


def batch(params: DriftingRefinerParams) -> dict[str, Any]:
    """What the reader gives a step with a drift, of random numbers."""
    assert params.drift is not None
    count, group = params.training.batch_size, params.drift.group
    units = count // group.clips
    return {
        "latents": torch.randn(count, *SHAPE),
        "prompt_embeds": torch.randn(count, *WORDS),
        "prompt_mask": torch.ones(count, WORDS[0], dtype=torch.bool),
        "pseudo_class": torch.arange(units).repeat_interleave(group.clips) % CLASSES,
        "draw": torch.arange(count),
        "positives": torch.randn(units, group.positives, *SHAPE),
        "present": torch.ones(units, group.positives, dtype=torch.bool),
        "unconditional": torch.randn(units, group.unconditional, *SHAPE),
    }


def trained(params: DriftingRefinerParams, number: int) -> Callable[[], None]:
    """One update of a new network at the step ``number``."""
    torch.manual_seed(0)
    architecture = read_document(Path("params.yaml"))[0]["latent_mae"]["architecture"]
    assert params.drift is not None
    features = FeatureSpaces(params.drift.features, LatentMae(SHAPE[0], architecture))
    sizes = params.refiner.model_dump()
    sizes["text_length"] += 1
    denoiser = VideoDenoiser.build(channels=SHAPE[0], text_dim=WORDS[1], num_classes=CLASSES, **sizes)
    network = Refiner(denoiser, False)
    objective = DriftingRefiner(network, params, torch.zeros(1, WORDS[1]), features)
    optimizer, read = NetworkOptimizer(network, params.training.optimizer), batch(params)

    def call() -> None:
        objective.losses(read, number)["refiner"].loss.mean().backward()
        optimizer.clip(params.training.max_grad_norm or 1.0, lambda _: None)
        optimizer.step(1.0)

    return call


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
    finally:
        torch.set_num_threads(threads)
    return figures
