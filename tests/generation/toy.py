"""A small world to train in: a folder of latents with classes and gates, and params of the real shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from pipelines.data.contract import EMPTY_PROMPT, INDEX, MANIFEST, AutoencoderFacts, Field, Manifest, TextFacts
from pipelines.data.tar import npy_bytes, write_shard
from pipelines.generation.drifting.params import DriftingRefinerParams, KeypatchRefinerParams
from pipelines.generation.params import AnchoredFlowParams, RectifiedFlowParams
from pipelines.models.denoiser import VideoDenoiser
from pipelines.models.latent_mae import LatentMae
from pipelines.stage import digest, file_digest, write_json
from pipelines.training import checkpoint

CHANNELS, FRAMES, SIDE, DIM, CLASSES = 4, 3, 4, 8, 3
ROOT = Path(__file__).parents[2]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
WORLD = np.random.default_rng(0)
BASES = WORLD.standard_normal((CLASSES, CHANNELS, 1, SIDE, SIDE))
WORDS = WORLD.standard_normal((CLASSES, 2, DIM))


def clip(number: int) -> np.ndarray:
    """A class's picture that moves down by a row each frame, with a little noise."""
    base = BASES[number % CLASSES]
    frames = np.concatenate([np.roll(base, frame, axis=2) for frame in range(FRAMES)], axis=1)
    return frames + 0.05 * np.random.default_rng(number).standard_normal(frames.shape)


def write_latents(folder: Path, count: int = 16, autoencoder: str = "a" * 64) -> Path:
    """``count`` clips, every fourth held out."""
    folder.mkdir(parents=True)
    samples = []
    for number in range(count):
        words = WORDS[number % CLASSES][: 1 + number % 2]
        fields = {"latents": clip(number).astype(np.float16), "prompt_embeds": words.astype(np.float16)}
        key, split = f"clip-{number:03d}", "validation" if number % 4 == 3 else "train"
        samples.append((key, {**fields, "prompt": f"thing {number % CLASSES}"}, {"key": key, "split": split}))
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
            digest=autoencoder,
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


def write_classes(folder: Path, latents: Path, count: int = 16) -> Path:
    """Assignments as the stage pseudo_classes leaves them."""
    folder.mkdir(parents=True)
    rows = {"key": [f"clip-{n:03d}" for n in range(count)], "pseudo_class": [n % CLASSES for n in range(count)]}
    pd.DataFrame(rows).to_parquet(folder / "assignments.parquet")
    write_json(folder / "codebook.json", {"num_classes": CLASSES, "latents": digest(latents)})
    return folder


def write_gates(folder: Path, verdict: str = "pass") -> Path:
    """One gate with this verdict."""
    folder.mkdir(parents=True, exist_ok=True)
    gate = {"name": "entropy_ratio", "value": 0.2, "threshold": 0.5, "comparison": ">=", "verdict": verdict}
    (folder / "gates.json").write_text(json.dumps({"gates": [{**gate, "reason": "exp(entropy) / K"}]}))
    return folder


SMALL: dict[str, Any] = {
    "denoiser": {"heads": 2, "head_dim": 12, "layers": 1, "feed_forward": 32, "patch": [1, 2, 2], "text_length": 4},
    "validation": {"clips": 4, "levels": 2, "prompts": 0},
}


def section(name: str, steps: int, **changes: Any) -> dict[str, Any]:
    """The section of the project's own params.yaml at toy size; ``changes`` replace whole keys."""
    values = PARAMS[name]
    training = {"steps": steps, "batch_size": 6, "micro_batch": 6, "validate_every": steps, "log_every": 2}
    values = {**values, **SMALL, "training": {**values["training"], **training}, "sampling": quick(values["sampling"])}
    return {**values, **changes}


def quick(sampling: dict[str, Any]) -> dict[str, Any]:
    """The same sampling blocks in two steps."""
    if "steps" in sampling:
        return {**sampling, "steps": 2}
    return {name: block and quick(block) for name, block in sampling.items()}


def rectified(steps: int = 4, **changes: Any) -> RectifiedFlowParams:
    """Section rectified_flow at toy size."""
    return RectifiedFlowParams.model_validate(section("rectified_flow", steps, **changes))


def anchored(stage: str = "identity", steps: int = 4, **changes: Any) -> AnchoredFlowParams:
    """Section anchored_flow_identity or anchored_flow_motion at toy size."""
    return AnchoredFlowParams.model_validate(section(f"anchored_flow_{stage}", steps, **changes))


REFINER: dict[str, Any] = {
    "refiner": SMALL["denoiser"],
    "keyframes": {"growth": "linear", "least": 2, "levels": 1, "selection": "random", "endpoints": True},
    "validation": {"clips": 4, "samples": 2, "shown": 0, "resamples": 20},
}
DRIFT: dict[str, Any] = {
    "begin": 2,
    "samples": 3,
    "group": {"clips": 2, "positives": 1, "unconditional": 2, "balance": 0.0},
    "features": {
        "encoder": "trained",
        "maps": {"layers": ["block1"], "windows": [1, 2], "locations": 3, "weight": 1.0},
        "statistics": {"names": ["block1_mean", "input_trajectory"], "weight": 1.0},
        "latents": {"windows": [2], "locations": 3, "weight": 1.0},
    },
}


def refining(steps: int = 4, **changes: Any) -> DriftingRefinerParams:
    """Section drifting_refiner at toy size; ``drift`` replaces keys of its block, None takes it away."""
    values = PARAMS["drifting_refiner"]
    drift = {**values["drift"], **DRIFT, **(changes.pop("drift", {}) or {})}
    training = {"steps": steps, "batch_size": 4, "micro_batch": 4, "validate_every": steps, "log_every": 1}
    training = {**values["training"], **training, **changes.pop("training", {})}
    values = {**values, **REFINER, "drift": drift, "training": training, **changes}
    return DriftingRefinerParams.model_validate(values)


def keypatching(steps: int = 4, **changes: Any) -> KeypatchRefinerParams:
    """Section keypatch_refiner at toy size; ``drift`` replaces keys of its block."""
    values = PARAMS["keypatch_refiner"]
    features = {**DRIFT["features"], "statistics": {"names": ["block1_mean"], "weight": 1.0}}
    drift = {**values["drift"], **DRIFT, "features": features, **changes.pop("drift", {})}
    training = {"steps": steps, "batch_size": 4, "micro_batch": 4, "validate_every": steps, "log_every": 1}
    training = {**values["training"], **training, **changes.pop("training", {})}
    keypatches = {"patch": 1, "growth": "linear", "least": 4, "levels": 2, "selection": "random"}
    small = {"refiner": SMALL["denoiser"], "keypatches": keypatches, "validation": REFINER["validation"]}
    values = {**values, **small, "drift": drift, "training": training, **changes}
    return KeypatchRefinerParams.model_validate(values)


def write_encoder(folder: Path, latents: Path, channels: int = CHANNELS) -> Path:
    """A latent MAE as its stage leaves it, with random weights."""
    torch.manual_seed(0)
    sizes = {"patch": [1, 1, 1], "width": 12, "depth": 1, "heads": 2, "decoder_width": 12, "decoder_depth": 1}
    LatentMae(channels, {"family": "transformer", **sizes}).save_pretrained(folder)
    read = {"latents": {"path": "latents", "digest": digest(latents)}}
    record = {"stage": "latent_mae", "step": 1, "run_id": "", "inputs": read, "parent": None, "results": {}}
    checkpoint.write_record(folder, record)
    return folder


UNIFIED: dict[str, Any] = {
    "motion_gain": {"value": 2.0, "warmup_steps": 10},
    "loss_weights": {"identity": 1.0, "motion": 1.0},
    "draw": {"name": "uniform", "shift": 1.0},
    "sampling": {
        name: {"sampler": "euler", "steps": 2, "shift": 1.0, "guidance": None} for name in ("identity", "motion")
    },
}
"""What makes a section of anchored flow the unified mode."""


def denoiser(num_classes: int | None = None, seed: int = 0, **size: int) -> VideoDenoiser:
    """A denoiser for this world's latents and prompts; ``size`` replaces widths and depth."""
    torch.manual_seed(seed)
    sizes = {"heads": 2, "head_dim": 12, "layers": 1, "feed_forward": 32, "text_length": 4, **size}
    return VideoDenoiser.build(channels=CHANNELS, text_dim=DIM, patch=(1, 2, 2), num_classes=num_classes, **sizes)


def batch(count: int = 6) -> dict[str, Any]:
    """A batch as the reader collates it."""
    classes = torch.arange(count) % CLASSES
    return {
        "latents": torch.from_numpy(np.stack([clip(n) for n in range(count)])).float(),
        "prompt_embeds": torch.from_numpy(WORDS[classes.numpy()]).float(),
        "prompt_mask": torch.ones(count, 2, dtype=torch.bool),
        "pseudo_class": classes,
    }
