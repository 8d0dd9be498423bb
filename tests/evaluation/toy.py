"""Everything that the evaluation reads, at toy size and untrained: latents, autoencoder, latent MAE, classes, flows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from pipelines.data.contract import EMPTY_PROMPT, INDEX, MANIFEST, AutoencoderFacts, Field, Manifest, TextFacts
from pipelines.data.tar import npy_bytes, write_shard
from pipelines.evaluation.params import EvaluationParams
from pipelines.models.autoencoder import StackedAutoencoder
from pipelines.models.denoiser import VideoDenoiser
from pipelines.models.latent_mae import LatentMae
from pipelines.stage import digest, file_digest, write_json
from pipelines.training import checkpoint
from pipelines.training.generator import CLOCKS

CHANNELS, FRAMES, SIDE, DIM, COUNT = 4, 3, 4, 6, 48
SPLIT_OF = {6: "validation", 7: "test", 8: "test", 9: "test", 10: "composition"}
"""By blocks of the four kinds."""
COLORS, DIRECTIONS = ("blue", "red"), ("down", "up")
ROOT = Path(__file__).parents[2]
RECORD = {"step": 1, "inputs": {}, "code": {}, "results": {}}
EULER = {"sampler": "euler", "steps": 2, "shift": 1.0, "guidance": {"scale": 2.0, "rescale": 0.0}}


def clip(number: int) -> np.ndarray:
    """Latents of one of four kinds: a colour (which channel) and a direction (how the bright row moves)."""
    latents = 0.1 * np.random.default_rng(number).standard_normal((CHANNELS, FRAMES, SIDE, SIDE))
    for frame in range(FRAMES):
        row = frame if number // 2 % 2 else SIDE - 1 - frame
        latents[number % 2, frame, row] += 3.0
    return latents.astype(np.float16)


def write_latents(folder: Path, autoencoder: Path, factors: bool = True) -> Path:
    """``COUNT`` clips, three of eight held out, with factors color and direction or without any."""
    folder.mkdir(parents=True)
    samples = []
    for number in range(COUNT):
        color, direction = COLORS[number % 2], DIRECTIONS[number // 2 % 2]
        words = np.zeros((2, DIM), np.float16)
        words[0, number % 2], words[1, 2 + number // 2 % 2] = 1.0, 1.0
        row = {"key": f"clip-{number:03d}", "split": SPLIT_OF.get(number // 4, "train")}
        row |= {"prompt": f"a {color} bar goes {direction}"}
        row |= {"factor_color": color, "factor_direction": direction} if factors else {}
        fields = {"latents": clip(number), "prompt_embeds": words, "prompt": row["prompt"]}
        samples.append((row["key"], fields, row))
    shard, places = write_shard(folder / "latents-00000.tar", samples)
    rows = [
        {**row, "shard": "latents-00000.tar", "offset": place.offset, "size": place.size}
        for (_, _, row), place in zip(samples, places, strict=True)
    ]
    index = pd.DataFrame(rows)
    index.to_parquet(folder / INDEX)
    (folder / EMPTY_PROMPT).write_bytes(npy_bytes(np.zeros((1, DIM), np.float16)))
    manifest = Manifest(
        version=1,
        fields={
            "latents": Field(axes="C T H W", shape=(CHANNELS, FRAMES, SIDE, SIDE), dtype="float16"),
            "prompt_embeds": Field(axes="L D", shape=(None, DIM), dtype="float16"),
            "prompt": Field(axes="", shape=(), dtype="str"),
        },
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
        num_samples=COUNT,
        splits={str(name): int(number) for name, number in index["split"].value_counts().items()},
        shards={"latents-00000.tar": shard},
        files={name: file_digest(folder / name) for name in (INDEX, EMPTY_PROMPT)},
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return folder


def write_autoencoder(folder: Path) -> Path:
    """An untrained autoencoder of the latents' geometry."""
    torch.manual_seed(0)
    StackedAutoencoder(frames=4, patch=4, width=8, latent_channels=CHANNELS, blocks=1).save_pretrained(folder)
    checkpoint.write_record(folder, RECORD | {"stage": folder.name})
    return folder


def write_latent_mae(folder: Path) -> Path:
    """An untrained encoder with features block0 and block1."""
    sizes = {"width": 8, "depth": 1, "heads": 2, "decoder_width": 8, "decoder_depth": 1}
    torch.manual_seed(1)
    LatentMae(CHANNELS, {"family": "transformer", "patch": [1, 2, 2], **sizes}).save_pretrained(folder)
    checkpoint.write_record(folder, RECORD | {"stage": folder.name})
    return folder


def write_classes(folder: Path) -> Path:
    """A class per kind of clip."""
    folder.mkdir(parents=True)
    rows = {"key": [f"clip-{n:03d}" for n in range(COUNT)], "pseudo_class": [n % 4 for n in range(COUNT)]}
    pd.DataFrame(rows).to_parquet(folder / "assignments.parquet")
    return folder


def write_flow(folder: Path, autoencoder: Path, end: float, still: bool, classes: int | None) -> Path:
    """The checkpoint of a flow with random weights, walked from 1 to ``end``."""
    torch.manual_seed(2)
    denoiser = VideoDenoiser.build(channels=CHANNELS, text_dim=DIM, heads=2, head_dim=12, layers=1, feed_forward=16,
                                   patch=(1, 2, 2), text_length=3, num_classes=classes)  # fmt: skip
    torch.nn.init.normal_(denoiser.transformer.proj_out.weight, std=0.1)
    denoiser.save_pretrained(folder)
    phase = {"network": "", "start": 1.0, "end": end, "still": still, "sampling": EULER}
    facts = {"shape": [CHANNELS, FRAMES, SIDE, SIDE], "frame_rate": 8.0}
    facts |= {"autoencoder": {"id": "toy", "digest": digest(autoencoder)}}
    needs = ["prompt", "pseudo_class"] if classes else ["prompt"]
    told = {"kind": "flow", "clocks": CLOCKS, "needs": needs, "phases": [phase], "latents": facts}
    write_json(folder / "generator.json", told)
    checkpoint.write_record(folder, RECORD | {"stage": folder.name})
    return folder


def params(**changes: Any) -> EvaluationParams:
    """Section evaluation of the project's own params.yaml at toy size; ``changes`` replace whole keys."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())["evaluation"]
    space = {"appearance": ["block1_mean", "block1_std"], "motion": ["block1_path"], "dims": 3, "shrinkage": 0.1}
    reader = {"width": 8, "steps": 40, "batch_size": 12, "learning_rate": 1.0e-2}
    probe = {"factors": {"identity": ["color"], "motion": ["direction"], "scene": []}}
    small = {"batch_size": 2, "resamples": 2, "num_shown": 2, "feature_space": space, "class_neighbours": 3}
    return EvaluationParams.model_validate(
        {**values, **small, "probe": {**probe, "frames": reader, "clips": reader}, **changes}
    )


def world(folder: Path, factors: bool = True) -> dict[str, Path]:
    """Everything on disk: the path arguments of the stage."""
    checkpoints = folder / "checkpoints"
    autoencoder = write_autoencoder(checkpoints / "autoencoder")
    write_latent_mae(checkpoints / "latent_mae")
    write_flow(checkpoints / "anchored_flow_identity", autoencoder, 0.2, True, 4)
    write_flow(checkpoints / "anchored_flow_motion", autoencoder, 0.0, False, 4)
    write_flow(checkpoints / "anchored_flow_unified", autoencoder, 0.0, False, 6)
    write_flow(checkpoints / "rectified_flow", autoencoder, 0.0, False, None)
    return {
        "latents": write_latents(folder / "latents", autoencoder, factors),
        "checkpoints": checkpoints,
        "pseudo_classes": write_classes(folder / "pseudo_classes"),
        "out": folder / "evaluation",
        "metrics": folder / "metrics.json",
        "plots": folder / "plots",
    }
