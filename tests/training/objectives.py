"""Every objective of the project at toy size: how it is built, a batch, and its section of params.yaml.

``python -m tests.training.objectives STEPS`` trains each of them and prints its rows: what ``make same-loss`` compares.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.training.objective import Batch, Objective


@dataclass(frozen=True)
class Case:
    """``make(**changes)`` builds the objective, always with the same weights; ``changes`` are values of its section."""

    make: Callable[..., Objective]
    batch: Batch
    params: Any


class Rolled:
    """Batches that are one batch, its samples moved on by one each step."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def keys(self, step: int) -> list[str]:
        size = len(next(iter(self.batch.values())))
        return [f"sample-{(row + step) % size}" for row in range(size)]

    def read(self, step: int, start: int, stop: int) -> Batch:
        return {
            name: value.roll(-step, 0)[start:stop] if isinstance(value, Tensor) else value
            for name, value in self.batch.items()
        }


def autoencoder() -> Case:
    from pipelines.latents.objectives import Autoencoding
    from pipelines.models.autoencoder import StackedAutoencoder
    from tests.latents import toy

    params = toy.autoencoder_params(steps=10)

    def make() -> Objective:
        torch.manual_seed(0)
        network = StackedAutoencoder(frames=4, patch=4, width=8, latent_channels=4, blocks=1)
        return Autoencoding(network, toy.losses())

    generator = torch.Generator().manual_seed(1)
    return Case(make, {"video": torch.rand(4, 3, 4, 16, 16, generator=generator) * 2 - 1}, params)


def latent_mae(**architecture: Any) -> Case:
    from pipelines.models.latent_mae import LatentMae
    from pipelines.representation.latent_mae import MaskedReconstruction
    from tests.representation import toy

    def make(**changes: Any) -> Objective:
        params = toy.mae_params(**changes)
        torch.manual_seed(0)
        shape = {**params.architecture.model_dump(mode="json"), **architecture}
        return MaskedReconstruction(LatentMae(toy.CHANNELS, shape), params.mask)

    generator = torch.Generator().manual_seed(1)
    # Four frames of 8 x 8: two tokens each way after every halving of the convolutional architecture.
    return Case(make, {"latents": torch.randn(8, toy.CHANNELS, 4, 8, 8, generator=generator)}, toy.mae_params())


CONV = {"family": "conv", "patch": [1, 2, 2], "width": 8, "blocks": [1, 1], "temporal_kernel": 3, "locations": 2}


def conv_mae() -> Case:
    from pipelines.models.latent_mae import LatentMae
    from pipelines.representation.latent_mae import MaskedReconstruction
    from pipelines.representation.params import LatentMaeParams
    from tests.representation import toy

    values = {**toy.mae_params().model_dump(mode="json"), "architecture": CONV}
    params = LatentMaeParams.model_validate(values)

    def make() -> Objective:
        torch.manual_seed(0)
        return MaskedReconstruction(LatentMae(toy.CHANNELS, dict(CONV)), params.mask)

    return Case(make, latent_mae().batch, params)


def _denoiser(num_classes: int | None) -> Any:
    from pipelines.models.denoiser import VideoDenoiser
    from tests.generation import toy

    torch.manual_seed(0)
    sizes: Any = {**toy.SMALL["denoiser"], "patch": tuple(toy.SMALL["denoiser"]["patch"])}
    network = VideoDenoiser.build(channels=toy.CHANNELS, text_dim=toy.DIM, num_classes=num_classes, **sizes)
    torch.nn.init.normal_(network.transformer.proj_out.weight, std=0.2)  # it starts at velocity 0, where little matters
    if network.class_embedding is not None:
        torch.nn.init.normal_(network.class_embedding.weight)  # and with classes that say nothing
    return network


def rectified_flow() -> Case:
    from pipelines.generation.rectified_flow import RectifiedFlow
    from tests.generation import toy

    def make(**changes: Any) -> Objective:
        params = toy.rectified(**changes)
        empty, share = torch.zeros(1, toy.DIM), params.first_frame_share
        return RectifiedFlow(
            _denoiser(None),
            params.draw,
            params.prompt_dropout,
            empty,
            tokens=lambda _: 12,
            first_frame_share=share,
        )

    return Case(make, toy.batch(), toy.rectified(steps=10))


def anchored_flow(stage: str, **fixed: Any) -> Case:
    from pipelines.generation.anchored_flow import AnchoredFlow
    from tests.generation import toy

    def make(**changes: Any) -> Objective:
        params = toy.anchored(stage, **{**fixed, **changes})
        return AnchoredFlow(_denoiser(toy.CLASSES), params, torch.zeros(1, toy.DIM), tokens=lambda _: 12)

    return Case(make, toy.batch(), toy.anchored(stage, steps=10, **fixed))


def unified() -> Case:
    from tests.generation import toy

    return anchored_flow("identity", **toy.UNIFIED)


CASES: dict[str, Callable[[], Case]] = {
    "autoencoder": autoencoder,
    "latent_mae transformer": latent_mae,
    "latent_mae conv": conv_mae,
    "rectified_flow": rectified_flow,
    "anchored_flow identity": lambda: anchored_flow("identity"),
    "anchored_flow motion": lambda: anchored_flow("motion"),
    "anchored_flow unified": unified,
}


def rows(case: Case, steps: int, folder: Path) -> list[dict[str, float]]:
    """Every row that the loop writes in ``steps`` updates on the case's own optimizer, schedule and clipping."""
    from pipelines.training.loop import train
    from pipelines.training.run import Run

    size = len(next(iter(case.batch.values())))
    every = {"steps": steps, "batch_size": size, "micro_batch": size, "precision": "fp32", "log_every": 1}
    every |= {"save_every": steps, "validate_every": steps}
    section = case.params.model_copy(update={"training": case.params.training.model_copy(update=every)})
    run = Run.open(section, {}, out=folder / "out", metrics=folder / "m.json", plots=folder / "plots")
    train(case.make(), Rolled(case.batch), run)
    text = next((folder / ".work").rglob("rows.jsonl")).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def printed(steps: int) -> Iterator[tuple[str, list[dict[str, float]] | str]]:
    """Of every case its rows, or why there are none."""
    for name, make in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                yield name, rows(make(), steps, Path(folder))
            except Exception as error:  # the other commit may not know this objective: that is a result, told by name
                yield name, f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    importlib.import_module("pipelines.stage").say = lambda text: None
    print(json.dumps(dict(printed(int(sys.argv[1])))))
