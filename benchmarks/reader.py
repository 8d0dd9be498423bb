"""Samples per second in random order, against webdataset's shuffle and against reading the same bytes; memory.

Two made-up data sets: small samples (about 15 kB: the demo's size) and large ones (3.8 MB: 20 latent frames of a 48
channel autoencoder and 128 tokens of umT5). Each sample ends as arrays of its own, as webdataset gives them.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.paired import Figure, ratios
from pipelines.data.batches import Batches
from pipelines.data.contract import EMPTY_PROMPT, INDEX, MANIFEST, AutoencoderFacts, Field, Manifest, TextFacts
from pipelines.data.shards import Shards
from pipelines.data.tar import npy_bytes, write_shard
from pipelines.stage import file_digest, write_json

ROUNDS = 5
FIELDS = ("latents", "prompt_embeds")
EPOCHS = 4
"""Epochs after the first one, over which memory must not grow."""


@dataclass(frozen=True)
class Kind:
    """A made-up data set."""

    name: str
    latents: tuple[int, int, int, int]
    prompt: tuple[int, int]
    count: int
    per_shard: int


KINDS = (
    Kind("15 kB samples", (16, 5, 8, 8), (20, 128), 2048, 256),
    Kind("3.8 MB samples", (48, 20, 28, 52), (128, 4096), 48, 8),
)


def write(folder: Path, kind: Kind) -> None:
    """Write the data set as latent_shards would."""
    random = np.random.default_rng(0)
    rows, shards = [], {}
    for begin in range(0, kind.count, kind.per_shard):
        samples = []
        for number in range(begin, min(begin + kind.per_shard, kind.count)):
            fields = {
                name: random.random(shape, np.float32).astype(np.float16)
                for name, shape in (("latents", kind.latents), ("prompt_embeds", kind.prompt))
            }
            sidecar = {"key": f"clip-{number:06d}", "split": "train"}
            samples.append((sidecar["key"], {**fields, "prompt": "a clip"}, sidecar))
        name = f"latents-{begin // kind.per_shard:05d}.tar"
        shards[name], places = write_shard(folder / name, samples)
        for (_, _, sidecar), place in zip(samples, places, strict=True):
            rows.append({**sidecar, "shard": name, "offset": place.offset, "size": place.size})
    pd.DataFrame(rows).to_parquet(folder / INDEX)
    (folder / EMPTY_PROMPT).write_bytes(npy_bytes(np.zeros((1, kind.prompt[1]), np.float16)))
    channels = (0.0,) * kind.latents[0]
    autoencoder = AutoencoderFacts(
        id="none", digest="0" * 64, temporal_stride=4, spatial_stride=8, latent_mean=channels, latent_std=channels
    )
    manifest = Manifest(
        version=1,
        fields={
            "latents": Field(axes="C T H W", shape=kind.latents, dtype="float16"),
            "prompt_embeds": Field(axes="L D", shape=(None, kind.prompt[1]), dtype="float16"),
            "prompt": Field(axes="", shape=(), dtype="str"),
        },
        autoencoder=autoencoder,
        text_encoder=TextFacts(id="none", digest="0" * 64, dim=kind.prompt[1]),
        frame_rate=8.0,
        num_samples=kind.count,
        splits={"train": kind.count},
        shards=shards,
        files={name: file_digest(folder / name) for name in (INDEX, EMPTY_PROMPT)},
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def read_ours(folder: Path) -> Callable[[], None]:
    """Every sample once, in random order, latents and prompt embeddings as arrays of their own."""
    shards = Shards(folder)
    generator = np.random.default_rng(0)

    def call() -> None:
        for row in generator.permutation(len(shards)).tolist():
            for value in shards.read(row, FIELDS).values():
                value.copy()

    return call


def read_webdataset(folder: Path) -> Callable[[], None]:
    """The same samples through webdataset, with shard shuffling and a buffer of 256 samples."""
    import webdataset

    paths = sorted(str(path) for path in folder.glob("latents-*.tar"))

    def array(content: bytes) -> np.ndarray:
        return np.load(io.BytesIO(content), allow_pickle=False)

    def call() -> None:
        source = webdataset.WebDataset(paths, shardshuffle=len(paths), empty_check=False)  # type: ignore[attr-defined]
        for sample in source.shuffle(256):
            array(sample["latents.npy"])
            array(sample["prompt_embeds.npy"])

    return call


def read_bytes(folder: Path) -> Callable[[], None]:
    """The same bytes, in file order, into nothing: what ``cat`` does."""

    def call() -> None:
        for path in folder.glob("latents-*.tar"):
            with path.open("rb", buffering=0) as stream:
                while stream.read(1 << 20):
                    pass

    return call


def own_memory() -> int:
    """Bytes of this process that no file stands behind (shards are mapped, and the system may drop those pages)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) * 1024


def memory(folder: Path, kind: Kind) -> tuple[float, ...]:
    """Memory after each of some further epochs of batches over memory after the first."""
    batches = Batches(Shards(folder), "train", FIELDS, batch_size=8, seed=0)
    steps = kind.count // 8
    held = []
    for epoch in range(1 + EPOCHS):
        for step in range(epoch * steps, (epoch + 1) * steps):
            batches.read(step, 0, 8)
        held.append(own_memory())
    return tuple(one / held[0] for one in held[1:])


def measure() -> Iterator[Figure]:
    """Reader figures for each kind of samples."""
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write(folder, kind)
            words = f"our reader, random order, {kind.name}"
            against = ratios(read_webdataset(folder), read_ours(folder), ROUNDS)
            yield Figure(
                "reader speed", words, "webdataset with shuffle(256)", "x samples per second", against, "target 10"
            )
            limit = ratios(read_ours(folder), read_bytes(folder), ROUNDS)
            yield Figure("reader cost", words, "`cat` of the same bytes", "x processor time", limit, "limit 1")
            if Path("/proc/self/status").is_file():
                grown = memory(folder, kind)
                yield Figure("reader memory", f"later epochs, {kind.name}", "the first epoch", "x", grown, "flat: 1")
