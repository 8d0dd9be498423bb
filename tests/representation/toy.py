"""A small folder of latents with known factors: a dot of one of three colours that goes left or right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from pipelines.data.contract import AutoencoderFacts, Field, Manifest, TextFacts
from pipelines.data.tar import write_shard
from pipelines.models.autoencoder import StackedAutoencoder
from pipelines.representation.params import DiagnosticsParams, LatentMaeParams, PseudoClassesParams
from pipelines.stage import digest, write_json
from pipelines.training import checkpoint

COLOURS = {"red": (3.0, 0.0, 0.0, 0.0), "green": (0.0, 3.0, 0.0, 0.0), "blue": (0.0, 0.0, 3.0, 0.0)}
CHANNELS, FRAMES, SIDE, WORDS = 4, 3, 4, 8
PARAMS = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())


def sample(number: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Fields and factors of one sample."""
    rng = np.random.default_rng(number)
    colour, direction = sorted(COLOURS)[number % 3], ("left", "right")[number // 3 % 2]
    latents = rng.normal(0, 0.1, (CHANNELS, FRAMES, SIDE, SIDE)) + rng.normal(0, 1, (CHANNELS, 1, 1, 1))
    row = rng.integers(1, 3)
    for frame in range(FRAMES):
        column = frame if direction == "right" else SIDE - 1 - frame
        latents[:, frame, row, column] += COLOURS[colour]
    table = np.random.default_rng(99).normal(size=(WORDS, 6))
    words = [0, 1 + sorted(COLOURS).index(colour), 4 + ("left", "right").index(direction), 6 + int(rng.integers(2))]
    fields = {
        "latents": latents.astype(np.float16),
        "prompt_embeds": table[words].astype(np.float16),
        "prompt": f"a {colour} dot goes {direction}",
    }
    return fields, {"factor_color": colour, "factor_direction": direction}


def autoencoder(folder: Path) -> Path:
    """An untrained autoencoder's files."""
    torch.manual_seed(0)
    network = StackedAutoencoder(frames=4, patch=4, width=8, latent_channels=CHANNELS, blocks=1)
    folder.mkdir(parents=True)
    network.save_pretrained(folder)
    checkpoint.write_record(folder, {"stage": "autoencoder", "step": 0, "inputs": {}, "code": {}, "results": {}})
    return folder


def latents(
    folder: Path,
    decoder: Path,
    count: int = 72,
    known: bool = True,
    broken: int | None = None,
    judged: Sequence[float] = (),
    tested: int = 0,
) -> Path:
    """Write ``count`` samples, a sixth held out; without factors if not ``known``; NaN in sample ``broken``.

    The last ``tested`` are the test split. Behind them a test sample for each number of ``judged``, by which its latents are multiplied.
    """
    folder.mkdir(parents=True)
    samples, rows = [], []
    for number in range(count + len(judged)):
        fields, factors = sample(number)
        if number == broken:
            fields["latents"] = fields["latents"] * np.float16("nan")
        row = {"key": f"clip-{number:04d}", "split": "validation" if number % 36 >= 30 else "train"}
        row["split"] = "test" if number >= count - tested else row["split"]
        if number >= count:
            fields["latents"], row["split"] = fields["latents"] * np.float16(judged[number - count]), "test"
        row |= {"prompt": fields["prompt"], **(factors if known else {})}
        samples.append((row["key"], fields, row))
        rows.append(row)
    facts, places = write_shard(folder / "latents-00000.tar", samples)
    index = pd.DataFrame(rows)
    index["shard"] = "latents-00000.tar"
    index["offset"], index["size"] = [place.offset for place in places], [place.size for place in places]
    index.to_parquet(folder / "index.parquet", index=False)
    manifest = Manifest(
        version=1,
        fields={
            "latents": Field(axes="C T H W", shape=(CHANNELS, FRAMES, SIDE, SIDE), dtype="float16"),
            "prompt_embeds": Field(axes="L D", shape=(None, 6), dtype="float16"),
            "prompt": Field(axes="", shape=(), dtype="str"),
        },
        autoencoder=AutoencoderFacts(
            id="toy",
            digest=digest(decoder),
            temporal_stride=4,
            spatial_stride=8,
            latent_mean=(0.0,) * CHANNELS,
            latent_std=(1.0,) * CHANNELS,
        ),
        text_encoder=TextFacts(id="toy", digest="0" * 64, dim=6),
        frame_rate=8.0,
        num_samples=len(index),
        splits={str(name): int(n) for name, n in index["split"].value_counts().sort_index().items()},
        shards={"latents-00000.tar": facts},
        files={},
    )
    write_json(folder / "manifest.json", manifest.model_dump(mode="json"))
    return folder


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {
        **values,
        **{
            name: _merged(values[name], change)
            if isinstance(change, dict) and isinstance(values.get(name), dict)
            else change
            for name, change in changes.items()
        },
    }


def mae_params(**changes: Any) -> LatentMaeParams:
    """The demo's section, made small."""
    small = {
        "architecture": {"width": 12, "depth": 1, "heads": 2, "decoder_width": 12},
        "probe": {"features": ["block0_path", "block1_moving", "input_moving"]},
        "spectrum_feature": "block1_mean",
        "training": {
            "steps": 6,
            "batch_size": 8,
            "micro_batch": 8,
            "validate_every": 3,
            "log_every": 2,
            "save_every": 6,
        },
    }
    return LatentMaeParams.model_validate(_merged(_merged(PARAMS["latent_mae"], small), changes))


def class_params(**changes: Any) -> PseudoClassesParams:
    """The demo's section with six classes, one per colour and direction."""
    small = {
        "num_classes": 6,
        "quantiser": {"restarts": 2},
        "permutations": 4,
        "fallback": None,
        "embedding": {"alignment": {"components": 4}},
        "known_factors": {"identity": ["color"], "motion": ["direction"]},
    }
    return PseudoClassesParams.model_validate(_merged(_merged(PARAMS["pseudo_classes"], small), changes))


def diagnostics_params(**changes: Any) -> DiagnosticsParams:
    """The demo's section, made small."""
    small = {
        "repeats": 3,
        "stability_seeds": 2,
        "kernel": {"features": ["block1_mean"]},
        "probe": {"features": ["block0_path", "block1_moving", "input_moving"]},
        "known_factors": {"identity": ["color"], "motion": ["direction"]},
        "layout": None,
    }
    return DiagnosticsParams.model_validate(_merged(_merged(PARAMS["diagnostics"], small), changes))
