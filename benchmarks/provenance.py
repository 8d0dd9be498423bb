"""`reel lineage`, `reel audit --quick` and `reel diff` of a synthetic project of 250,000 clips, in processor seconds.

    python -m benchmarks provenance

Clips are a catalog and names in a folder (empty files), latents an index and sparse shards; a checkpoint was trained on
them. Each command runs as a whole process, as a person starts it: starting Python counts.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.paired import Figure
from benchmarks.scale import RECIPES, shards_of, write_catalog
from pipelines.chain import carry
from pipelines.data.catalog import CATALOG, read_catalog
from pipelines.data.contract import AutoencoderFacts, TextFacts
from pipelines.latents import folder
from pipelines.stage import file_digest, write_json

COUNT, ROUNDS = "PROVENANCE_CLIPS", 3
LIMITS = {"lineage": 1.0, "audit --quick": 10.0, "diff": 3.0}
"""Processor seconds."""
NODE = {"params": {}, "code": "c" * 64, "environment": {}, "gates": [], "seed": {}, "command": []}


def project(root: Path, count: int, changed: int) -> Path:
    """Clips, latents, classes and a checkpoint, each with its chain; of ``changed`` clips the content is another."""
    clips = root / "data/clips"
    write_catalog(clips, count)
    table = pq.read_table(clips / CATALOG)
    hashes = [f"{number:064x}" for number in range(changed)] + table["content_hash"].to_pylist()[changed:]
    place = table.schema.get_field_index("content_hash")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(hashes)), clips / CATALOG)
    (clips / "clips").mkdir()
    for name in table["file"].to_pylist():
        (clips / name).touch()
    carry(clips, {**NODE, "stage": "raw_video", "path": "data/clips"}, {}, {})
    latents = root / "data/latents"
    latents.mkdir()
    catalog = read_catalog(clips)
    autoencoder = AutoencoderFacts(
        id="a", digest="0" * 64, temporal_stride=4, spatial_stride=8, latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16
    )
    text = TextFacts(id="t", digest="0" * 64, dim=4096)
    folder.write_folder(latents, catalog, shards_of(catalog, root / ".made"), autoencoder, text, RECIPES)
    carry(
        latents, {**NODE, "stage": "latent_shards", "path": "data/latents"}, {"clips": clips}, {"clips": "data/clips"}
    )
    classes = root / "data/pseudo_classes"
    classes.mkdir()
    np.save(classes / "embeddings.npy", np.random.default_rng(0).normal(size=(count, 28)).astype(np.float32))
    pq.write_table(table.select(["key", "split"]), classes / "assignments.parquet")
    carry(classes, {**NODE, "stage": "classes", "path": "data/pseudo_classes"}, {"latents": latents}, {"latents": "x"})
    made = root / "checkpoints/flow"
    made.mkdir(parents=True)
    (made / "net.safetensors").write_bytes(bytes(1000))
    weights = {"net.safetensors": file_digest(made / "net.safetensors")}
    write_json(made / "checkpoint.json", {"stage": "flow", "weights": weights})
    read = {"latents": latents, "pseudo_classes": classes}
    carry(made, {**NODE, "stage": "flow", "path": "checkpoints/flow"}, read, {"latents": "x", "pseudo_classes": "y"})
    return root


def processor_seconds(words: list[str], cwd: Path) -> float:
    """Of one command as a whole process, with those that it starts.

    Raises:
        AssertionError: it did not answer.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-P", "-m", "dagster_project.cli", *words]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1) and done.stdout and not done.stderr, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure() -> Iterator[Figure]:
    """Processor seconds over the limit of each command."""
    count = int(os.environ.get(COUNT, "250000"))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        one, other = (project(root / side, count, changed) for side, changed in (("one", 0), ("two", count // 100)))
        asked = {
            "lineage": ["lineage", str(one / "checkpoints/flow")],
            "audit --quick": ["audit", str(one), "--quick"],
            "diff": ["diff", str(one / "data/clips"), str(other / "data/clips")],
        }
        for command, words in asked.items():
            limit = LIMITS[command]
            taken = tuple(processor_seconds(words, root) for _ in range(ROUNDS))
            print(f"| {count:,} clips | reel {command}, s | {min(taken):.2f} |", flush=True)
            ratios = tuple(seconds / limit for seconds in taken)
            words_of_limit = f"{limit:g} s of processor time"
            yield Figure(f"reel {command}, {count:,} clips", "this", words_of_limit, "x", ratios, "limit 1")
