"""A small folder of latents, written by the writer itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.data.contract import (
    ACTIONS,
    CHECKSUM,
    EMPTY_PROMPT,
    INDEX,
    MANIFEST,
    AutoencoderFacts,
    Field,
    Manifest,
    TextFacts,
)
from pipelines.data.tar import npy_bytes, write_shard
from pipelines.stage import file_digest, write_json

CHANNELS, DIM = 2, 3


def sample(number: int) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Sample ``number``: every field, with prompts of different lengths."""
    random = np.random.default_rng(number)
    fields = {
        "latents": random.standard_normal((CHANNELS, 2, 3, 3)).astype(np.float16),
        "prompt_embeds": random.standard_normal((1 + number % 3, DIM)).astype(np.float16),
        "prompt": f"clip № {number}",
        "actions": random.standard_normal((5, 6)).astype(np.float32),
    }
    split = "validation" if number % 4 == 3 else "train"
    return f"clip-{number:03d}", fields, {"key": f"clip-{number:03d}", "split": split, "number": number}


def write_latents(folder: Path, num_samples: int = 12, per_shard: int = 5, autoencoder: str = "a" * 64) -> Path:
    """Write ``num_samples`` samples as a complete folder of latents."""
    folder.mkdir(parents=True)
    rows, shards = [], {}
    for begin in range(0, num_samples, per_shard):
        samples = [sample(number) for number in range(begin, min(begin + per_shard, num_samples))]
        name = f"latents-{begin // per_shard:05d}.tar"
        shards[name], places = write_shard(folder / name, samples)
        for (_, _, sidecar), place in zip(samples, places, strict=True):
            checksums = {CHECKSUM + member.partition(".")[0]: value for member, value in place.checksums.items()}
            rows.append({**sidecar, "shard": name, "offset": place.offset, "size": place.size, **checksums})
    index = pd.DataFrame(rows)
    index.to_parquet(folder / INDEX)
    (folder / EMPTY_PROMPT).write_bytes(npy_bytes(np.ones((1, DIM), np.float16)))
    manifest = Manifest(
        version=1,
        actions=ACTIONS,
        fields={
            "latents": Field(axes="C T H W", shape=(CHANNELS, 2, 3, 3), dtype="float16"),
            "prompt_embeds": Field(axes="L D", shape=(None, DIM), dtype="float16"),
            "prompt": Field(axes="", shape=(), dtype="str"),
            "actions": Field(axes="T A", shape=(5, 6), dtype="float32"),
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
        num_samples=num_samples,
        splits={str(name): int(count) for name, count in index["split"].value_counts().items()},
        shards=shards,
        files={name: file_digest(folder / name) for name in (INDEX, EMPTY_PROMPT)},
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return folder
