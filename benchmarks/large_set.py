"""What evaluation reads of 250,000 clips: peak memory of a process that reads all of it, over the stated limit.

    python -m benchmarks large_set

Catalog, index and shards are synthetic (`benchmarks.scale`); samples are small and real where evaluation reads, holes
elsewhere: a reading of the whole train split would fail. The latents themselves come on top by their size, for at most
``max_train_clips`` training clips, as many of the reference, and the clips of the prompts.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.paired import Figure
from benchmarks.scale import RECIPES, SAMPLE_BYTES, shards_of, write_catalog
from pipelines.data.catalog import TRAIN, read_catalog
from pipelines.data.contract import AutoencoderFacts, TextFacts
from pipelines.data.prompt_classes import MOST_PROMPTS, classes_by_prompt
from pipelines.data.shards import Shards
from pipelines.data.tar import write_shard
from pipelines.evaluation.params import EvaluationParams
from pipelines.evaluation.parts import factor_words, parts_of, real_latents, train_rows
from pipelines.latents import folder
from pipelines.params import parse_section

COUNT, LIMIT_MIB = "LARGE_SET_CLIPS", 1024
CHANNELS, SHAPE, WORDS = 16, (16, 3, 4, 4), (4, 64)


def params() -> EvaluationParams:
    """The section of the project."""
    found = parse_section(EvaluationParams, "evaluation")
    assert isinstance(found, EvaluationParams)
    return found


def spread(rows: list[int], most: int) -> list[int]:
    """The rows that :func:`classes_by_prompt` looks through."""
    return rows[:: max(1, -(-len(rows) // most))]


def make(root: Path, count: int) -> Path:
    """Latents of so many clips below ``root``, real where evaluation reads."""
    write_catalog(root / "clips", count)
    catalog, latents = read_catalog(root / "clips"), root / "latents"
    latents.mkdir()
    strides = {"temporal_stride": 4, "spatial_stride": 8}
    scale = {"latent_mean": (0.0,) * CHANNELS, "latent_std": (1.0,) * CHANNELS}
    autoencoder = AutoencoderFacts(id="a", digest="0" * 64, **strides, **scale)  # type: ignore[arg-type]
    text = TextFacts(id="t", digest="0" * 64, dim=WORDS[1])
    folder.write_folder(latents, catalog, shards_of(catalog, root / ".made"), autoencoder, text, RECIPES)
    shards = Shards(latents)
    parts, reference, _ = parts_of(shards, params(), latents)
    asked = [row for part in parts.values() for row in part.rows]
    train = shards.rows(TRAIN).tolist()
    fill(shards, {*asked, *reference, *train_rows(shards, params().max_train_clips), *spread(train, MOST_PROMPTS)})
    return latents


def fill(shards: Shards, rows: Iterable[int]) -> None:
    """Write real members into the places of some rows."""
    draws = np.random.default_rng(0)
    for row in rows:
        entry = shards.index.iloc[row]
        arrays = {
            "latents": draws.normal(size=SHAPE).astype(np.float16),
            "prompt_embeds": draws.normal(size=WORDS).astype(np.float16),
        }
        made = shards.folder.parent / ".one.tar"
        write_shard(made, [(str(entry["key"]), arrays, {})])
        content = made.read_bytes()[:SAMPLE_BYTES]
        with (shards.folder / entry["shard"]).open("r+b") as stream:
            stream.seek(int(entry["offset"]))
            stream.write(content)


def read(latents: Path) -> None:
    """All that evaluation reads of the latents; prints what the process took at most, in MiB."""
    shards, section = Shards(latents), params()
    parts, reference, _ = parts_of(shards, section, latents)
    kept = [real_latents(shards, part.every) for part in parts.values()]
    kept += [real_latents(shards, reference), real_latents(shards, train_rows(shards, section.max_train_clips))]
    factor_words(shards, shards.rows(TRAIN).tolist())
    classes = dict.fromkeys(shards.index["key"], 0)
    classes_by_prompt(shards, classes, [row for part in parts.values() for row in part.rows])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, sum(map(len, kept)))


def measure() -> Iterator[Figure]:
    """Peak memory over the limit."""
    count = int(os.environ.get(COUNT, "250000"))
    with tempfile.TemporaryDirectory() as place:
        latents = make(Path(place), count)
        command = [sys.executable, "-m", "benchmarks.large_set", str(latents)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak, clips = done.stdout.split()
        print(f"| {count:,} clips | evaluation's reading, MiB at most, {clips} clips | {float(peak):.0f} |", flush=True)
        limit = f"{LIMIT_MIB} MiB and the latents that it holds"
        yield Figure(
            f"evaluation's reading of {count:,} clips", "this", limit, "x", (float(peak) / LIMIT_MIB,), "limit 1"
        )


if __name__ == "__main__":
    read(Path(sys.argv[1]))
