"""The folder of latents: shards that stay and new ones under one index, the text encoder, and last the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from pipelines import stage
from pipelines.data.catalog import ACTION_NAMES, FACTOR_PREFIX
from pipelines.data.contract import (
    CHECKSUM,
    EMPTY_PROMPT,
    INDEX,
    MANIFEST,
    TEXT_ENCODER,
    VERSION,
    AutoencoderFacts,
    Field,
    Manifest,
    TextFacts,
    action_facts,
)
from pipelines.data.tar import npy_bytes
from pipelines.latents.plan import fields_of, prompt_hash
from pipelines.latents.stock import PLACE, Stock, StockShard
from pipelines.latents.text import TextEncoder
from pipelines.models.autoencoder import Autoencoder
from pipelines.models.geometry import latent_frames
from pipelines.recording import link
from pipelines.training import checkpoint

TRAVELS = ["content_hash", "source", "start_seconds", "end_seconds", "num_frames", "height", "width"]
"""Columns of the catalog that go into the index as they are, beside the factors."""


def make_index(catalog: pd.DataFrame, shards: Mapping[str, StockShard]) -> pd.DataFrame:
    """A row per clip, sorted by key: what the catalog says of it, and where in which shard it is.

    The rows are the same however the samples came into their shards; only ``shard`` and ``offset`` tell.
    """
    factors = [str(name) for name in catalog if str(name).startswith(FACTOR_PREFIX)]
    facts = catalog[["key", "split", *TRAVELS, *factors]].assign(
        prompt=catalog["caption"], prompt_hash=[prompt_hash(caption) for caption in catalog["caption"]]
    )
    placed = pd.concat([one.rows.assign(shard=name) for name, one in shards.items()], ignore_index=True)
    placed = placed.dropna(axis=1, how="all")
    checksums = [name for name in placed if str(name).startswith(CHECKSUM)]
    places = placed[["key", "content_hash", "prompt_hash", "shard", *PLACE, *checksums]]
    index = facts.merge(places, on=["key", "content_hash", "prompt_hash"]).drop_duplicates("key")
    return index.sort_values("key", ignore_index=True)


def action_width(catalog: pd.DataFrame) -> int:
    """Columns of the clips' actions, the same for all of them."""
    return len(next(iter(catalog["actions"]))[0])


def make_fields(catalog: pd.DataFrame, autoencoder: AutoencoderFacts, dim: int) -> dict[str, Field]:
    """Axes, lengths and dtype of each field; a length that differs between samples is None, as is that of prompts."""
    temporal, spatial = autoencoder.temporal_stride, autoencoder.spatial_stride

    def length(column: str, fold: int) -> int | None:
        found = catalog[column].unique().tolist()
        if len(found) > 1:
            return None
        return latent_frames(int(found[0]), fold) if column == "num_frames" else int(found[0]) // fold

    sides = length("height", spatial), length("width", spatial)
    shape = (len(autoencoder.latent_mean), length("num_frames", temporal), *sides)
    fields = {
        "latents": Field(axes="C T H W", shape=shape, dtype="float16"),
        "prompt_embeds": Field(axes="L D", shape=(None, dim), dtype="float16"),
        "prompt": Field(axes="", shape=(), dtype="str"),
    }
    if "actions" in fields_of(catalog):
        shape = (length("num_frames", 1), action_width(catalog))
        fields["actions"] = Field(axes="T A", shape=shape, dtype="float32")
    return fields


def autoencoder_facts(folder: Path, autoencoder: Autoencoder) -> AutoencoderFacts:
    """Identity, strides and normalisation of the autoencoder in a checkpoint folder.

    Raises:
        StageError: the folder is no checkpoint, is damaged, or a gate of it failed.
    """
    record = checkpoint.read(folder)
    failed = [gate for gate in record["results"].get("gates", []) if gate["verdict"] == "fail"]
    if failed:
        gate = failed[0]
        raise stage.StageError(
            f"{folder}: gate {gate['name']} failed: {gate['value']:.4g} is not {gate['comparison']} "
            f"{gate['threshold']:g} ({gate['reason']}). Train it longer, or move the threshold in autoencoder.gates."
        )
    origin = record.get("pretrained", {})
    return AutoencoderFacts(
        id=origin.get("name") or f"{record['stage']}-{record['run_id']}",
        digest=stage.digest(folder),
        revision=origin.get("revision"),
        temporal_stride=autoencoder.temporal_stride,
        spatial_stride=autoencoder.spatial_stride,
        latent_mean=numbers(autoencoder.latent_mean),
        latent_std=numbers(autoencoder.latent_std),
    )


def numbers(values: Tensor) -> tuple[float, ...] | tuple[tuple[float, ...], ...]:
    """Statistics [C] or [C, F] as the manifest states them."""
    return tuple(tuple(row) if isinstance(row, list) else row for row in values.tolist())


def put_text_encoder(folder: Path, text: TextEncoder | None, known: Stock) -> TextFacts:
    """The text encoder and the embedding of the empty prompt: written, or where it is None, those of the stock."""
    if text is None:
        assert known.text_facts is not None
        for name, file in known.text_files.items():
            link(file, folder / name)
        return known.text_facts
    (folder / EMPTY_PROMPT).write_bytes(npy_bytes(text.embed([""], 1)[""]))
    return TextFacts(id=text.id, digest=text.save(folder / TEXT_ENCODER), revision=text.revision, dim=text.dim)


def write_folder(
    folder: Path,
    catalog: pd.DataFrame,
    shards: Mapping[str, StockShard],
    autoencoder: AutoencoderFacts,
    text: TextFacts,
    recipes: Mapping[str, str],
) -> tuple[Manifest, pd.DataFrame]:
    """Shards (linked), index, and last the manifest; the text encoder is there already. Returns manifest and index.

    Raises:
        StageError: a clip of the catalog is in none of the shards.
    """
    shards = dict(sorted(shards.items()))
    for name, shard in shards.items():
        link(shard.path, folder / name)
    index = make_index(catalog, shards)
    if len(index) != len(catalog):
        missing = sorted(set(catalog["key"]) - set(index["key"]))
        raise stage.StageError(f"{len(missing)} clips are in no shard, first {missing[0]}: run latent_shards again.")
    pq.write_table(pa.Table.from_pandas(index, preserve_index=False), folder / INDEX)
    others = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tar"]
    fields = make_fields(catalog, autoencoder, text.dim)
    manifest = Manifest(
        version=VERSION,
        fields=fields,
        actions=action_facts(action_width(catalog), catalog.attrs.get(ACTION_NAMES)) if "actions" in fields else None,
        autoencoder=autoencoder,
        text_encoder=text,
        frame_rate=float(np.median(catalog["frame_rate"])),
        num_samples=len(index),
        splits={str(name): int(count) for name, count in index["split"].value_counts().sort_index().items()},
        shards={name: shard.facts for name, shard in shards.items()},
        files={path.relative_to(folder).as_posix(): stage.file_digest(path) for path in sorted(others)},
        recipes=dict(recipes),
    )
    stage.write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest, index
