"""What grows with the data: start-up, memory, index and DVC's hashing for 100,000 clips in 1,000 shards.

Shards are sparse files, so that nothing but bookkeeping is measured. ``python -m benchmarks scale`` prints the table of
docs/scale.md and a figure for every line that must grow no faster than the data.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.paired import Figure
from pipelines.data.catalog import CATALOG, CLIPS, REJECTED, read_catalog
from pipelines.data.contract import INDEX, AutoencoderFacts, ShardFacts, TextFacts
from pipelines.data.shards import Shards
from pipelines.latents import folder, stock
from pipelines.latents.plan import make_plan, prompt_hash
from pipelines.latents.stock import StockShard

PER_SHARD, SAMPLE_BYTES, NEW_SHARE = 100, 4096, 0.01
COUNTS = (25_000, 100_000)
FEW, QUICKEST = 1_000, 0.001
"""Of the cost per clip: the other end, in clips, and the seconds of the quickest encoding that it is told for."""
RUN = (
    "read the catalog, s",
    "look what is there, s",
    "plan with another text encoder, s",
    "link shards, write index and manifest, s",
)
"""What a run that encodes everything does once besides."""
RECIPES = {"latents": "a", "text": "a", "samples_per_shard": str(PER_SHARD)}


def write_catalog(place: Path, count: int) -> None:
    """A catalog without clips."""
    place.mkdir(parents=True)
    numbers = range(count)
    keys = [f"clip-{number * 2654435761 % 2**64:016x}" for number in numbers]
    columns: dict[str, Any] = {
        "key": keys,
        "file": [f"clips/{key}.mp4" for key in keys],
        "caption": [f"caption number {number} of a clip that shows something" for number in numbers],
        "split": ["validation" if number % 50 == 0 else "train" for number in numbers],
        "num_frames": [81] * count,
        "height": [480] * count,
        "width": [832] * count,
        "frame_rate": [16.0] * count,
        "source": [f"videos/{number // 20:05d}.mp4" for number in numbers],
        "start_seconds": [number % 20 * 5.0 for number in numbers],
        "end_seconds": [number % 20 * 5.0 + 5.0 for number in numbers],
        "content_hash": [f"{number * 2654435761 % 2**64:064x}" for number in numbers],
        "actions": [None] * count,
    }
    pq.write_table(pa.table(columns, schema=CLIPS), place / CATALOG)
    pq.write_table(pa.table({"file": pa.array([], pa.string())}), place / REJECTED)


def shards_of(catalog: pd.DataFrame, place: Path) -> dict[str, StockShard]:
    """Sparse shards that hold the clips by key."""
    place.mkdir(parents=True)
    ordered = catalog.sort_values("key")
    found = {}
    for begin in range(0, len(ordered), PER_SHARD):
        part = ordered.iloc[begin : begin + PER_SHARD]
        name, size = f"latents-{begin // PER_SHARD:05d}.tar", len(part) * SAMPLE_BYTES
        rows = part[["key", "content_hash"]].reset_index(drop=True)
        rows["prompt_hash"] = [prompt_hash(caption) for caption in part["caption"]]
        rows["offset"], rows["size"] = np.arange(len(part)) * SAMPLE_BYTES, SAMPLE_BYTES
        rows["prompt_tokens"], rows["crc32_latents"], rows["crc32_json"] = 60, begin, begin + 1
        (place / name).touch()
        os.truncate(place / name, size)
        fields = frozenset({"latents", "prompt_embeds", "prompt"})
        facts = ShardFacts(sha256=f"{begin:064x}", size=size, num_samples=len(part))
        found[name] = StockShard(place / name, name, facts, RECIPES, fields, rows)
    return found


def timed(action: Callable[[], Any], rounds: int = 3) -> tuple[float, Any]:
    """Least processor seconds of some rounds (a busy machine only adds), and the result."""
    least, found = float("inf"), None
    for _ in range(rounds):
        began = time.process_time()
        found = action()
        least = min(least, time.process_time() - began)
    return least, found


def bookkeeping(place: Path, count: int) -> dict[str, float]:
    """Processor seconds and sizes of everything that is not encoding, for so many clips."""
    write_catalog(place / "clips", count)
    found: dict[str, float] = {"catalog MiB": (place / "clips" / CATALOG).stat().st_size / 2**20}
    found["read the catalog, s"], catalog = timed(lambda: read_catalog(place / "clips"))
    made = shards_of(catalog, place / "made")
    out = place / "latents"
    out.mkdir()
    autoencoder = AutoencoderFacts(
        id="a", digest="0" * 64, temporal_stride=4, spatial_stride=8, latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16
    )
    text = TextFacts(id="t", digest="0" * 64, dim=4096)
    write = lambda: folder.write_folder(out, catalog, made, autoencoder, text, RECIPES)  # noqa: E731
    found["link shards, write index and manifest, s"], _ = timed(write, 1)
    found["index MiB"] = (out / INDEX).stat().st_size / 2**20
    found["look what is there, s"], known = timed(lambda: stock.find(out, place / "work"))
    few = catalog.copy()
    few.loc[: int(count * NEW_SHARE), "content_hash"] = "new"
    found["plan with nothing new, s"], plan = timed(lambda: make_plan(catalog, known, RECIPES))
    assert not plan.parts and len(plan.kept) == len(made)
    found["plan with 1 % new, s"], _ = timed(lambda: make_plan(few, known, RECIPES))
    found["plan with another text encoder, s"], _ = timed(lambda: make_plan(catalog, known, {**RECIPES, "text": "b"}))
    del catalog, few, known, made, plan, write  # a training holds none of it, and Python would walk it all
    gc.collect()
    found["open the shards for training, s"], shards = timed(lambda: Shards(out))
    found["index in memory, MiB"] = int(shards.index.memory_usage(deep=True).sum()) / 2**20
    for name, value in found.items():
        print(f"| {count:,} clips | {name} | {value:.2f} |", flush=True)
    return found


def dvc_seconds(place: Path, files: int, size: int) -> dict[str, float]:
    """Wall seconds of DVC for a folder of files: the first time, with nothing new, and with 1 % more files."""
    place.mkdir(parents=True)

    def dvc(*words: str) -> float:
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "dvc", *words, "--quiet"], cwd=place, check=True, stdout=subprocess.DEVNULL
        )
        return time.monotonic() - began

    dvc("init", "--no-scm")
    dvc("config", "cache.type", "reflink,hardlink,copy")
    (place / "data").mkdir()
    for number in range(files):
        (place / f"data/{number:05d}").write_bytes(os.urandom(64) * (size // 64))
    found = {"first": dvc("add", "data"), "nothing new": dvc("add", "data")}
    (place / "data").rename(place / "gone")  # as DVC and the stage do it: deleted, and linked again
    (place / "data").mkdir()
    for path in (place / "gone").iterdir():
        os.link(path, place / "data" / path.name)
    for number in range(files, files + max(1, files // 100)):
        (place / f"data/{number:05d}").write_bytes(os.urandom(64) * (size // 64))
    found["1 % more files"] = dvc("add", "data")
    found["status"] = dvc("status")
    return found


def cost_per_clip(found: dict[str, float], count: int) -> float:
    """Seconds of a run that makes every sample anew, per clip, with an encoding of ``QUICKEST`` seconds a clip."""
    return QUICKEST + sum(found[name] for name in RUN) / count


def measure() -> list[Figure]:
    """Growth from the first count to the second, over the growth of the data; and the table behind it."""
    with tempfile.TemporaryDirectory() as place:
        few, small, large = (bookkeeping(Path(place) / str(count), count) for count in (FEW, *COUNTS))
        for name, value in dvc_seconds(Path(place) / "dvc", 1000, 1 << 18).items():
            print(f"| 1,000 shards of 256 KiB | dvc: {name}, s | {value:.1f} |", flush=True)
    growth = COUNTS[1] / COUNTS[0]
    keys = [name for name in large if name.endswith(", s")]
    words = f"{COUNTS[1]:,} clips", f"{COUNTS[0]:,}"
    flat = cost_per_clip(large, COUNTS[1]) / cost_per_clip(few, FEW)
    ends = f"{COUNTS[1]:,} clips", f"{FEW:,}"
    return [
        Figure(f"cost per clip, encoded in {QUICKEST * 1e3:g} ms", *ends, "x", (flat,), "0.9 to 1.1"),
        *(
            Figure(name, *words, "x, over that of the data", (large[name] / small[name] / growth,), "limit 1.5")
            for name in keys
        ),
    ]
