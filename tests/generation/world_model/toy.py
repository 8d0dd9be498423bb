"""A small world that actions move: latents with actions, a tiny autoencoder, and params of the real shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image

from pipelines.data.contract import (
    ACTIONS,
    EMPTY_PROMPT,
    INDEX,
    MANIFEST,
    ActionFacts,
    AutoencoderFacts,
    Field,
    Manifest,
    TextFacts,
)
from pipelines.data.tar import npy_bytes, write_shard
from pipelines.generation.world_model.params import WorldModelParams
from pipelines.models.autoencoder import StackedAutoencoder
from pipelines.stage import digest, file_digest, write_json

CHANNELS, FRAMES, SIDE, DIM = 4, 5, 4, 3
ROWS = 1 + 4 * (FRAMES - 1)
PARAMS = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text())


def clip(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture that D rolls to the right and A to the left by a place per latent frame, and the actions of it."""
    random = np.random.default_rng(number)
    keys = random.choice([1, 3], FRAMES)  # A or D, of each latent frame
    place = np.concatenate([[0], np.cumsum(keys[1:] - 2)])
    picture = np.random.default_rng(number % 2).standard_normal((CHANNELS, SIDE, SIDE))
    latents = np.stack([np.roll(picture, step, axis=2) for step in place], axis=1)
    actions = np.zeros((ROWS, 6), np.float32)
    actions[0, keys[0]] = 1
    for frame in range(1, FRAMES):
        actions[4 * frame - 3 : 4 * frame + 1, keys[frame]] = 1
    return latents, actions


def write_autoencoder(folder: Path) -> Path:
    """An autoencoder of random weights."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    StackedAutoencoder(frames=4, patch=4, width=8, latent_channels=CHANNELS, blocks=1).save_pretrained(folder)
    return folder


def write_latents(folder: Path, autoencoder: Path, count: int = 24, actions: ActionFacts | None = ACTIONS) -> Path:
    """``count`` clips, every fourth held out."""
    folder.mkdir(parents=True)
    samples = []
    for number in range(count):
        latents, held = clip(number)
        fields = {"latents": latents.astype(np.float16), "prompt_embeds": np.zeros((1, DIM), np.float16)}
        fields |= {"actions": held} if actions is not None else {}
        split = ("train", "validation", "train", "test")[number % 4]
        row = {"key": f"clip-{number:03d}", "split": split, "factor_shape": ("cross", "circle")[number % 2]}
        row |= {"factor_color": "red"}
        samples.append((row["key"], {**fields, "prompt": f"thing {number % 2}"}, row))
    shard, places = write_shard(folder / "latents-00000.tar", samples)
    rows = [
        {**row, "shard": "latents-00000.tar", "offset": place.offset, "size": place.size}
        for (_, _, row), place in zip(samples, places, strict=True)
    ]
    index = pd.DataFrame(rows)
    index.to_parquet(folder / INDEX)
    (folder / EMPTY_PROMPT).write_bytes(npy_bytes(np.zeros((1, DIM), np.float16)))
    fields = {
        "latents": Field(axes="C T H W", shape=(CHANNELS, FRAMES, SIDE, SIDE), dtype="float16"),
        "prompt_embeds": Field(axes="L D", shape=(None, DIM), dtype="float16"),
        "prompt": Field(axes="", shape=(), dtype="str"),
    }
    if actions is not None:
        fields["actions"] = Field(axes="T A", shape=(ROWS, 6), dtype="float32")
    manifest = Manifest(
        version=1,
        actions=actions,
        fields=fields,
        autoencoder=AutoencoderFacts(
            id="toy",
            digest=digest(autoencoder),
            temporal_stride=4,
            spatial_stride=8,
            latent_mean=(0.0,) * CHANNELS,
            latent_std=(1.0,) * CHANNELS,
        ),
        text_encoder=TextFacts(id="toy", digest="b" * 64, dim=DIM),
        frame_rate=8.0,
        num_samples=count,
        splits={str(name): int(number) for name, number in index["split"].value_counts().items()},
        shards={"latents-00000.tar": shard},
        files={name: file_digest(folder / name) for name in (INDEX, EMPTY_PROMPT)},
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return folder


def params(name: str = "world_model", steps: int = 3, **changes: Any) -> WorldModelParams:
    """The section of the project's own params.yaml at toy size; ``changes`` replace whole keys."""
    values = PARAMS[name]
    small = {"heads": 2, "head_dim": 12, "layers": 1, "feed_forward": 32}
    actions = {"hidden": 4, "inner": 16, "heads": 2, "rotary": 4, "history": 1}
    draft = {"width": 8, "blocks": 1, "weight": 1.0}
    training = {"steps": steps, "batch_size": 8, "micro_batch": 8, "validate_every": steps, "log_every": 1}
    values = {
        **values,
        "denoiser": {**values["denoiser"], **small, "actions": actions, "draft": draft},
        "sampling": {**values["sampling"], "steps": 2},
        "validation": {"clips": 4, "levels": 2, "shown": 2},
        "rollouts": {"clips": 4, "num_frames": 33, "reader_steps": 2, "resamples": 20},
        "training": {**values["training"], **training},
    }
    return WorldModelParams.model_validate({**values, **changes})


class Toy:
    """Autoencoder and latents in a folder, and the stage run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.autoencoder = write_autoencoder(folder / "autoencoder")
        self.latents = write_latents(folder / "latents", self.autoencoder)

    def train(self, values: WorldModelParams, name: str, init: Path | None = None, latents: Path | None = None) -> Path:
        """Run the stage; returns its checkpoint."""
        from pipelines.generation.world_model.train import train

        out, metrics = self.folder / "checkpoints" / name, self.folder / f"metrics/{name}.json"
        places = {"out": out, "metrics": metrics, "plots": self.folder / f"plots/{name}"}
        train(values, latents or self.latents, self.autoencoder, init=init, **places)
        return out

    def picture(self, size: tuple[int, int] = (32, 32)) -> Path:
        """A picture to start from, (width, height)."""
        pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(self.folder / "first.png")
        return self.folder / "first.png"
