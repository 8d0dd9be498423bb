"""What artifacts and sections of the parameters say of themselves: counts, splits, shards, choices by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's content; empty where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def data_facts(folder: Path) -> dict[str, Any]:
    """What a data set says of itself: samples, also by split, first and last shard, normalisation, classes, or empty.

    Latents (``manifest.json``), clips (``catalog.parquet``) and classes (``codebook.json``) describe themselves.
    """
    manifest, codebook = read_json(folder / "manifest.json"), read_json(folder / "codebook.json")
    if manifest:
        shards = sorted(manifest.get("shards") or {})
        spread = {"shards": len(shards), "shard_range": [shards[0], shards[-1]]} if shards else {}
        encoder = (manifest.get("autoencoder") or {}).get("id")
        scaled = {"normalisation": f"mean and standard deviation per channel, of autoencoder {encoder}"}
        counts = {"samples": manifest.get("num_samples"), "splits": manifest.get("splits")}
        return {**counts, **spread, **(scaled if encoder else {})}
    if codebook:
        return {name: codebook[name] for name in ("quantiser", "num_classes", "seed", "embedding") if name in codebook}
    if (folder / "catalog.parquet").is_file():
        from pyarrow.parquet import read_table

        table = read_table(folder / "catalog.parquet", columns=["split", "source", "content_hash"])
        splits, hashes = table["split"].to_pylist(), sorted(table["content_hash"].to_pylist())
        return {
            "samples": len(splits),
            "splits": {name: splits.count(name) for name in sorted(set(splits))},
            "sources": len(set(table["source"].to_pylist())),
            "content": hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
        }
    return {}


def stated(values: Any, keys: frozenset[str], where: str = "") -> dict[str, Any]:
    """The parameters of these names, anywhere in a section, by their dotted place; null says nothing."""
    found: dict[str, Any] = {}
    for name, value in values.items() if isinstance(values, Mapping) else ():
        place = f"{where}.{name}" if where else str(name)
        if name in keys and value is not None:
            found[place] = value
        else:
            found |= stated(value, keys, place)
    return found
