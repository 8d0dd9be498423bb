"""Samples per second in random order from the same shards: our index against webdataset with a shuffle buffer."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.paired import Figure, ratios
from pipelines.data.shards import Shards

ROUNDS = 5


def read_ours(folder: Path) -> Callable[[], None]:
    """Every sample once, in random order, latents and prompt embeddings as arrays."""
    shards = Shards(folder)
    generator = np.random.default_rng(0)

    def call() -> None:
        for row in generator.permutation(len(shards)):
            shards.read(int(row), ("latents", "prompt_embeds"))

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
    """The same bytes, in file order, into nothing."""

    def call() -> None:
        for path in folder.glob("latents-*.tar"):
            with path.open("rb") as stream:
                while stream.read(1 << 20):
                    pass

    return call


def measure(folder: Path = Path("data/latents")) -> list[Figure]:
    """Reader figures on the demo's shards; none where they are not made yet."""
    if not (folder / "manifest.json").is_file():
        return []
    against = ratios(read_webdataset(folder), read_ours(folder), ROUNDS)
    limit = ratios(read_ours(folder), read_bytes(folder), ROUNDS)
    words = "our reader, random order"
    return [
        Figure("reader speed", words, "webdataset with shuffle(256)", "x samples per second", against, "target 10"),
        Figure("reader cost", words, "reading the same bytes in order", "x processor time", limit, "limit 1"),
    ]
