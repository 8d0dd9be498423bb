"""Stage ``latent_shards``: clips and prompts encoded into WebDataset shards with manifest and index.

A clip's latents depend on its pixels and the autoencoder alone, an embedding on its prompt and the text encoder alone:
batches are filled to one size, so that the arithmetic of a sample does not know its neighbours. The unit of work is one
shard, whole or absent.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from pipelines import stage
from pipelines.data.catalog import FACTOR_PREFIX
from pipelines.data.contract import (
    EMPTY_PROMPT,
    INDEX,
    MANIFEST,
    PROMPT_TOKENS,
    TEXT_ENCODER,
    VERSION,
    AutoencoderFacts,
    Field,
    Manifest,
    ShardFacts,
    TextFacts,
)
from pipelines.data.shards import CHECKSUM
from pipelines.data.tar import Place, npy_bytes, write_shard
from pipelines.latents import pictures
from pipelines.latents.clips import Clips
from pipelines.latents.params import LatentShardsParams
from pipelines.latents.quality import Autoencoder
from pipelines.latents.text import TextEncoder, text_encoder
from pipelines.models.autoencoder import load_autoencoder
from pipelines.training import checkpoint
from pipelines.training.precision import resolved

AXES = {"latents": "C T H W", "prompt_embeds": "L D", "actions": "T A", "prompt": ""}
TRAVELS = ["content_hash", "source", "start_seconds", "end_seconds", "num_frames", "height", "width"]
"""Columns of the catalog that go into the index as they are, beside the factors."""


def prompt_hash(prompt: str) -> str:
    """Identity of a prompt: SHA-256 of its UTF-8 bytes."""
    return hashlib.sha256(prompt.encode()).hexdigest()


# ---- what will be written -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShardPlan:
    """One shard: its file name and the catalog rows it holds, in order."""

    name: str
    rows: tuple[int, ...]


def plan(catalog: pd.DataFrame, samples_per_shard: int) -> list[ShardPlan]:
    """Clips sorted by key, cut into shards: the same clips give the same shards in whatever order they are listed."""
    order = np.argsort(catalog["key"].to_numpy(), kind="stable").tolist()
    parts = [order[begin : begin + samples_per_shard] for begin in range(0, len(order), samples_per_shard)]
    return [ShardPlan(f"latents-{number:05d}.tar", tuple(part)) for number, part in enumerate(parts)]


# ---- encoding -----------------------------------------------------------------------------------------------------


class Encoder:
    """Clips and prompts to samples; counts what it encoded."""

    def __init__(self, params: LatentShardsParams, clips: Clips, autoencoder: Autoencoder, text: TextEncoder) -> None:
        self.params, self.clips, self.autoencoder, self.text = params, clips, autoencoder, text
        # Not PartialState: alone it does not know that several CPU processes belong together.
        self.accelerator = Accelerator()
        self.device = self.accelerator.device
        self.autoencoder.to(self.device)
        self.text.network.to(self.device)
        self.has_actions = bool(clips.catalog["actions"].notna().all())
        self.clips_encoded = self.prompts_embedded = 0
        self.clips_planned = len(clips.catalog)
        self._embeds: dict[str, np.ndarray] = {}

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if resolved(self.params.precision, self.device) == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def latents(self, rows: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(row, float16 [C, T, H, W]) of every clip, in order."""
        size = self.params.batch_size
        for batch, video in self.clips.videos(rows, size):
            filled = torch.cat([video, video[-1:].expand(size - len(video), *video.shape[1:])])
            with torch.no_grad(), self._autocast():
                latents = self.autoencoder.encode(filled.to(self.device))[: len(batch)]
            self.clips_encoded += len(batch)
            stage.report(self.clips_encoded, self.clips_planned, "clips")
            for row, value in zip(batch, latents.float().cpu().numpy().astype(np.float16), strict=True):
                if not np.isfinite(value).all():
                    raise stage.StageError(
                        f"{self.clips.folder}: clip {self.clips.key(row)}: its latents are not finite in float16; "
                        "encode with precision fp32, or look at the autoencoder."
                    )
                yield row, value

    def embeds(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """Prompt to embedding; each prompt is embedded once in the life of the encoder."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._embeds]
        self._embeds |= self.text.embed(new, self.params.batch_size)
        self.prompts_embedded += len(new)
        return self._embeds

    def samples(self, rows: Sequence[int]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        """(key, fields, sidecar) per clip, as the writer takes them."""
        catalog = self.clips.catalog
        embeds = self.embeds([str(catalog["caption"].iloc[row]) for row in rows])
        for row, latents in self.latents(rows):
            entry = catalog.iloc[row]
            prompt = str(entry["caption"])
            sample = {"latents": latents, "prompt_embeds": embeds[prompt], "prompt": prompt}
            if self.has_actions:
                sample["actions"] = np.stack(entry["actions"]).astype(np.float32)
            yield str(entry["key"]), sample, {**index_entry(entry), PROMPT_TOKENS: len(embeds[prompt])}


def index_entry(entry: pd.Series) -> dict[str, Any]:
    """What index and sidecar say of a clip: key, split, hashes, where it came from, prompt, known factors."""
    factors = [str(name) for name in entry.index if str(name).startswith(FACTOR_PREFIX)]
    prompt = str(entry["caption"])
    facts = {"key": entry["key"], "split": entry["split"], "prompt": prompt, "prompt_hash": prompt_hash(prompt)}
    facts |= {name: entry[name] for name in [*TRAVELS, *factors]}
    return {name: value.item() if hasattr(value, "item") else value for name, value in facts.items()}


# ---- the folder ---------------------------------------------------------------------------------------------------


def index_rows(shard: str, entries: Sequence[dict[str, Any]], places: Sequence[Place]) -> list[dict[str, Any]]:
    """Rows of the index for the samples of one shard."""
    rows = []
    for entry, place in zip(entries, places, strict=True):
        checksums = {CHECKSUM + name.partition(".")[0]: value for name, value in place.checksums.items()}
        rows.append({**entry, "shard": shard, "offset": place.offset, "size": place.size, **checksums})
    return rows


def outline(fields: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """(shape, dtype) of every field of a sample; text is ((), "str")."""
    return {
        name: (value.shape, str(value.dtype)) if isinstance(value, np.ndarray) else ((), "str")
        for name, value in fields.items()
    }


def field_facts(outlines: Sequence[dict[str, tuple[tuple[int, ...], str]]]) -> dict[str, Field]:
    """Axes, lengths and dtype of each field; a length that differs between samples is None, as is that of prompts."""
    found = {}
    for name in outlines[0]:
        axes = zip(*{one[name][0] for one in outlines}, strict=True)
        lengths = [lengths[0] if len(set(lengths)) == 1 else None for lengths in axes]
        known = [None if axis == "L" else length for axis, length in zip(AXES[name].split(), lengths, strict=True)]
        found[name] = Field(axes=AXES[name], shape=tuple(known), dtype=outlines[0][name][1])
    return found


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
    return AutoencoderFacts(
        id=record.get("pretrained", {}).get("name") or f"{record['stage']}-{record['run_id']}",
        digest=stage.digest(folder),
        temporal_stride=autoencoder.temporal_stride,
        spatial_stride=autoencoder.spatial_stride,
        latent_mean=tuple(autoencoder.latent_mean.tolist()),
        latent_std=tuple(autoencoder.latent_std.tolist()),
    )


@dataclass(frozen=True)
class Written:
    """One shard on disk: its facts, the index rows and outlines of its samples."""

    name: str
    facts: ShardFacts
    rows: list[dict[str, Any]]
    outlines: list[dict[str, tuple[tuple[int, ...], str]]]


def write_part(folder: Path, part: ShardPlan, encoder: Encoder) -> Written:
    """Encode and write one shard."""
    samples = list(encoder.samples(part.rows))
    facts, places = write_shard(folder / part.name, samples)
    rows = index_rows(part.name, [sidecar for _, _, sidecar in samples], places)
    return Written(part.name, facts, rows, [outline(fields) for _, fields, _ in samples])


def write_around(folder: Path, written: Sequence[Written], encoder: Encoder, facts: AutoencoderFacts) -> Manifest:
    """Everything but the shards: index, empty prompt, text encoder, and last the manifest."""
    index = pd.DataFrame([row for one in written for row in one.rows])
    pq.write_table(pa.Table.from_pandas(index, preserve_index=False), folder / INDEX)
    (folder / EMPTY_PROMPT).write_bytes(npy_bytes(encoder.text.embed([""], 1)[""]))
    text_digest = encoder.text.save(folder / TEXT_ENCODER)
    others = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tar"]
    manifest = Manifest(
        version=VERSION,
        fields=field_facts([kind for one in written for kind in one.outlines]),
        autoencoder=facts,
        text_encoder=TextFacts(id=encoder.text.id, digest=text_digest, dim=encoder.text.dim),
        frame_rate=float(np.median(encoder.clips.catalog["frame_rate"])),
        num_samples=len(index),
        splits={str(name): int(count) for name, count in index["split"].value_counts().sort_index().items()},
        shards={one.name: one.facts for one in written},
        files={path.relative_to(folder).as_posix(): stage.file_digest(path) for path in sorted(others)},
    )
    stage.write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def encode(params: LatentShardsParams, clips: Path, autoencoder: Path, out: Path, metrics: Path, plots: Path) -> None:
    """Encode every clip and prompt of the catalog; several processes take disjoint shards.

    Raises:
        StageError: the autoencoder is damaged or failed a gate, clips do not fit it, or a text encoder is not there.
    """
    source = Clips(clips)
    checkpoint.read(autoencoder)  # damaged weights are told by name, before a library stumbles over them
    network = load_autoencoder(autoencoder)
    facts = autoencoder_facts(autoencoder, network)
    source.require(network.temporal_stride, network.spatial_stride)
    captions = source.catalog["caption"].astype(str).tolist()
    encoder = Encoder(params, source, network, text_encoder(params.text, captions))
    state = encoder.accelerator
    parts = plan(source.catalog, params.samples_per_shard)[state.process_index :: state.num_processes]
    encoder.clips_planned = sum(len(part.rows) for part in parts)
    with stage.whole_folder(out) if state.is_main_process else contextlib.nullcontext(out) as mine:
        folder = Path(broadcast_object_list([str(mine)])[0])
        written = [write_part(folder, part, encoder) for part in parts]
        gathered: list[Written] = gather_object(written)
        done = gather_object([(encoder.clips_encoded, encoder.prompts_embedded)])
        if not state.is_main_process:
            return
        manifest = write_around(folder, sorted(gathered, key=lambda one: one.name), encoder, facts)
    pictures.draw_latents(network, source, out, encoder.device, plots / "latents.png")
    size = sum(shard.size for shard in manifest.shards.values())
    stage.say(f"{manifest.num_samples} clips in {len(manifest.shards)} shards, {size / 2**20:.1f} MiB")
    stage.write_metrics(
        metrics,
        {
            "clips_encoded": sum(clips for clips, _ in done),
            "prompts_embedded": sum(prompts for _, prompts in done),
            "num_samples": manifest.num_samples,
            "num_shards": len(manifest.shards),
            "splits": manifest.splits,
            "shard_mib": size / 2**20,
            "prompt_tokens_max": max(one["prompt_embeds"][0][0] for part in gathered for one in part.outlines),
        },
    )
