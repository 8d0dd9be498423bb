"""Stage ``latent_shards``: clips and prompts encoded into WebDataset shards with manifest and index, only the new ones.

A clip's latents depend on its pixels and the autoencoder alone, an embedding on its prompt and the text encoder alone
(:mod:`pipelines.latents.recipes`). What an earlier run encoded is linked or copied (:mod:`pipelines.latents.plan`). The
unit of work is one shard, whole or absent: finished ones wait in the stage's work folder until all are.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate.utils import broadcast_object_list, gather_object

from pipelines import stage
from pipelines.data import store
from pipelines.data.contract import CHECKSUM, PROMPT_TOKENS, Manifest
from pipelines.data.tar import write_shard
from pipelines.latents import folder, pictures, stock
from pipelines.latents.clips import Clips
from pipelines.latents.encoder import BATCHES_AHEAD, Encoder, Sample, ahead
from pipelines.latents.params import EmbeddedText, LatentShardsParams
from pipelines.latents.plan import SPEED, Part, Plan, all_recipes, make_plan
from pipelines.latents.stock import Stock
from pipelines.latents.text import text_encoder
from pipelines.models.autoencoder import load_autoencoder
from pipelines.training import checkpoint

LEAST_FOR_SPEED = 32
"""Encoded clips below which a run's speed is not noted."""


def write_parts(work: Path, plan: Plan, parts: list[Part], encoder: Encoder) -> None:
    """Encode and write shards of the plan, while the next samples are made."""
    elsewhere = store.configured()
    samples = ahead(encoder.samples(plan, parts), BATCHES_AHEAD * encoder.params.batch_size)
    with contextlib.closing(samples):
        for part in parts:
            path, rows = work / f"{part.id}.tar", []
            path.with_suffix(".json").unlink(missing_ok=True)
            facts, places = write_shard(path, noted(islice(samples, len(part.rows)), rows))
            for row, place in zip(rows, places, strict=True):
                checksums = {CHECKSUM + name.partition(".")[0]: value for name, value in place.checksums.items()}
                row |= {"offset": place.offset, "size": place.size, **checksums}
            stock.write_record(path, facts, plan.recipes, encoder.fields, rows)
            if elsewhere is not None:
                elsewhere.put(path, part.name, facts.sha256)


def noted(samples: Iterator[Sample], rows: list[dict[str, Any]]) -> Iterator[Sample]:
    """The samples as they are; who they are is added to ``rows``."""
    for key, fields, sidecar in samples:
        identity = {name: sidecar[name] for name in stock.IDENTITY}
        rows.append({**identity, PROMPT_TOKENS: len(fields["prompt_embeds"])})
        yield key, fields, sidecar


def needs_text_encoder(params: LatentShardsParams, captions: list[str], plan: Plan, known: Stock) -> bool:
    """Whether a text encoder is made; not where no prompt is new and the files of a pretrained one can be taken over.

    The embedded one is always made: its vocabulary is that of the captions.
    """
    same = known.text_recipe == plan.recipes["text"]
    return bool(plan.prompts_to_embed(captions)) or not same or isinstance(params.text, EmbeddedText)


def prepare(source: Clips, recipes: dict[str, str], out: Path, work: Path) -> tuple[Plan, Stock]:
    """The plan and the stock; what a killed run left and nothing uses is removed."""
    work.mkdir(parents=True, exist_ok=True)
    known = stock.find(out, work)
    plan = make_plan(source.catalog, known, recipes)
    copied = {place.path for place in (*plan.latents.values(), *plan.embeds.values())}
    used = copied | {shard.path for shard in plan.kept.values()}
    for path in work.iterdir():
        if path.with_suffix(".tar") not in used:
            path.unlink()
    stage.say(plan.summary(source.catalog))
    return plan, known


def encode(params: LatentShardsParams, clips: Path, autoencoder: Path, out: Path, metrics: Path, plots: Path) -> None:
    """Encode what is new of the clips and prompts of the catalog; several processes take disjoint shards.

    Raises:
        StageError: the autoencoder is damaged or failed a gate, clips do not fit it, or a text encoder is not there.
    """
    source = Clips(clips, cache_bytes=0)
    checkpoint.read(autoencoder)  # damaged weights are told by name, before a library stumbles over them
    network = load_autoencoder(autoencoder)
    facts = folder.autoencoder_facts(autoencoder, network)
    source.require(network.temporal_stride, network.spatial_stride)
    encoder = Encoder(params, source, network)
    state, work = encoder.accelerator, stage.current().work_folder(out)
    shards = work / "shards"
    recipes, captions = all_recipes(params, autoencoder), source.catalog["caption"].tolist()
    # One process looks what is there, because the others may already write.
    plan, known = prepare(source, recipes, out, shards) if state.is_main_process else (Plan({}, [], recipes), Stock())
    needed = state.is_main_process and needs_text_encoder(params, captions, plan, known)
    shared, needed = broadcast_object_list([replace(plan, kept={}), needed])
    if needed:
        encoder.text = text_encoder(params.text, captions)
        encoder.text.network.to(encoder.device)
    began = time.monotonic()
    write_parts(shards, shared, shared.parts[state.process_index :: state.num_processes], encoder)
    done = gather_object([(encoder.clips_encoded, encoder.prompts_embedded)])
    if not state.is_main_process:
        return
    note_speed(work / SPEED, sum(clips for clips, _ in done), time.monotonic() - began)
    written = {part.name: stock.read_record(shards / f"{part.id}.tar") for part in plan.parts}
    everything = {**plan.kept, **{name: shard for name, shard in written.items() if shard is not None}}
    with stage.whole_folder(out) as place:
        text = folder.put_text_encoder(place, encoder.text, known)
        manifest, index = folder.write_folder(place, source.catalog, everything, facts, text, recipes)
        elsewhere = store.configured()
        if elsewhere is not None:
            store.complete(place, manifest.shards, elsewhere)
    shutil.rmtree(shards)
    pictures.draw_latents(network, source, out, encoder.device, plots / "latents.png")
    stage.write_metrics(metrics, numbers(plan, captions, manifest, index, done))


def note_speed(path: Path, clips_encoded: int, seconds: float) -> None:
    """Clips per second of this machine, for the forecast of the next run; too few clips say nothing."""
    if clips_encoded >= LEAST_FOR_SPEED:
        stage.write_json(path, {"clips_per_second": clips_encoded / max(seconds, 1e-6)})


def numbers(
    plan: Plan, captions: list[str], manifest: Manifest, index: pd.DataFrame, done: list[tuple[int, int]]
) -> dict[str, Any]:
    """Metrics: calls of the encoders (over all processes) and what they were spared, and the size of the result."""
    size = sum(shard.size for shard in manifest.shards.values())
    clips_encoded = sum(clips for clips, _ in done)
    stage.say(f"{manifest.num_samples} clips in {len(manifest.shards)} shards, {size / 2**20:.1f} MiB")
    stored = sum(shard.num_samples for shard in manifest.shards.values())
    return {
        "clips_encoded": clips_encoded,
        "clips_reused": manifest.num_samples - clips_encoded,
        "prompts_embedded": sum(prompts for _, prompts in done),
        "prompts_reused": len(set(captions)) - len(plan.prompts_to_embed(captions)),
        "shards_written": len(plan.parts),
        "shards_reused": len(plan.kept),
        "num_samples": manifest.num_samples,
        "num_shards": len(manifest.shards),
        "removed_share": 1 - manifest.num_samples / stored,
        "splits": manifest.splits,
        "shard_mib": size / 2**20,
        "prompt_tokens_max": max(index[PROMPT_TOKENS].tolist()),
    }
