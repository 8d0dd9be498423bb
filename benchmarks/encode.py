"""Encoding against its limit, the autoencoder's forward alone on ready tensors; and 1 % new clips against all."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from benchmarks.paired import Figure, cpu_seconds, ratios, seconds
from pipelines.data.catalog import write_catalog
from pipelines.data.contract import AutoencoderFacts, TextFacts
from pipelines.data.video import write_mp4
from pipelines.latents import folder, stock
from pipelines.latents.clips import Clips
from pipelines.latents.encode import prepare, write_parts
from pipelines.latents.encoder import Encoder
from pipelines.latents.params import EmbeddedText, LatentShardsParams
from pipelines.latents.text import text_encoder
from pipelines.models.autoencoder import Autoencoder, PretrainedVideoAutoencoder, StackedAutoencoder
from pipelines.models.forwards import Forwards

FRAMES, SIDE, BATCH = 17, 64, 16
MANY, NEW = 1600, 16
RECIPES = {"latents": "bench", "text": "bench", "samples_per_shard": "64"}
TEXT = EmbeddedText(kind="embedded", dim=128, layers=2, heads=4, max_length=64, seed=0)
PARAMS = LatentShardsParams(samples_per_shard=64, batch_size=BATCH, precision="fp32", text=TEXT)


def write_clips(place: Path, count: int) -> Clips:
    """``count`` clips of the demo's form; every 32 of them are the same file under other names."""
    (place / "clips").mkdir(parents=True)
    for number in range(32):
        random = np.random.default_rng(number)
        ground = random.integers(0, 255, (1, 8, 8, 3)).repeat(FRAMES, 0).repeat(SIDE // 8, 1).repeat(SIDE // 8, 2)
        moved = np.stack([np.roll(frame, step, axis=1) for step, frame in enumerate(ground)])
        write_mp4(place / f"clips/{number}.mp4", moved.astype(np.uint8), 8.0)
    form = {"num_frames": FRAMES, "height": SIDE, "width": SIDE, "frame_rate": 8.0, "actions": None}
    source = {"source": "bench", "start_seconds": 0.0, "end_seconds": 2.0, "split": "train"}
    rows = [
        {"key": f"clip-{n:06d}", "content_hash": f"{n:064d}", "file": f"clips/{n % 32}.mp4", "caption": f"clip {n % 9}"}
        for n in range(count)
    ]
    write_catalog(place, [{**row, **form, **source} for row in rows])
    return Clips(place, cache_bytes=0)


def encode(clips: Clips, autoencoder: StackedAutoencoder, out: Path) -> None:
    """The stage without loading its models: look, encode, write, put the folder together."""
    encoder = Encoder(PARAMS, clips, autoencoder)
    encoder.text = text_encoder(TEXT, clips.catalog["caption"].tolist())
    work = out.with_name("work")
    plan, _ = prepare(clips, RECIPES, out, work)
    write_parts(work, plan, plan.parts, encoder)
    written = {part.name: stock.read_record(work / f"{part.id}.tar") for part in plan.parts}
    facts = AutoencoderFacts(
        id="bench",
        digest="0" * 64,
        temporal_stride=4,
        spatial_stride=8,
        latent_mean=(0.0,) * 16,
        latent_std=(1.0,) * 16,
    )
    fresh = out.with_name("fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    shards = {**plan.kept, **{name: one for name, one in written.items() if one is not None}}
    folder.write_folder(fresh, clips.catalog, shards, facts, TextFacts(id="b", digest="0" * 64, dim=128), RECIPES)
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(work)
    fresh.rename(out)


@dataclass(frozen=True)
class Held:
    """How often a figure is taken, and what it is held to."""

    rounds: int
    target: str


def against_forward(place: Path, name: str, autoencoder: Autoencoder, count: int, held: Held) -> list[Figure]:
    """Decode, forward and write, overlapped, against the forward alone on ready tensors.

    The forward alone in two ways: batch after batch on all threads of torch, as a script calls it, and batches side by
    side on a thread each, as the stage does, which is the harder peer. Beside them the forward's share of both
    processor times: what decoding on the same cores leaves of its speed, and so the bound of the second figure.
    """
    clips = write_clips(place, count)
    ready = [torch.rand(BATCH, 3, FRAMES, SIDE, SIDE) * 2 - 1 for _ in range(count // BATCH)]
    encoder = Encoder(PARAMS, clips, autoencoder)
    encoder.text = text_encoder(TEXT, clips.catalog["caption"].tolist())

    def ours() -> None:
        work, encoder.clips_encoded = place / "work", 0
        plan, _ = prepare(clips, RECIPES, place / "none", work)
        write_parts(work, plan, plan.parts, encoder)
        shutil.rmtree(work)

    @torch.no_grad()
    def forward() -> None:
        for video in ready:
            autoencoder.encode(video)

    @torch.no_grad()
    def one(network: Autoencoder, video: Tensor) -> Tensor:
        return network.encode(video)

    def side_by_side() -> None:
        for _ in Forwards(one, autoencoder, encoder.device).of(([], video) for video in ready):
            pass

    def decode() -> None:
        for row in range(count):
            clips.frames(row)

    found = tuple(1 / ratio for ratio in ratios(ours, forward, held.rounds, seconds))
    beside = tuple(1 / ratio for ratio in ratios(ours, side_by_side, held.rounds, seconds))
    bound = tuple(1 / (1 + ratio) for ratio in ratios(decode, side_by_side, held.rounds))
    peer, unit = "the forward alone on ready tensors", "x clips per second"
    return [
        Figure(f"encode speed, {name}", "decode, forward, write", peer, unit, found, held.target),
        Figure(f"encode, {name}, a thread a batch", "decode, forward, write", "the forward so", unit, beside, "stated"),
        Figure(f"encode share, {name}", "forward", "forward and decoding", "of the processor time", bound, "stated"),
    ]


def against_forwards(place: Path) -> list[Figure]:
    """The demo's autoencoder, whose forward costs little more than decoding, its forerunner, and a narrow one of Wan's.

    The forerunner, of commit f9ffa0f, is what "0.91 to 0.93" was measured with.
    """
    torch.manual_seed(0)
    before = StackedAutoencoder(4, 4, 64, 16, 3).eval().requires_grad_(False)
    small = StackedAutoencoder(4, 8, 128, 16, 2).eval().requires_grad_(False)
    wan = PretrainedVideoAutoencoder(AutoencoderKLWan(base_dim=16, num_res_blocks=1))
    return [
        *against_forward(place / "small", "the demo's autoencoder", small, 256, Held(5, "stated")),
        *against_forward(place / "before", "its forerunner", before, 256, Held(5, "stated")),
        *against_forward(place / "wan", "Wan's layout", wan, 48, Held(3, "target 0.97")),
    ]


def against_all(place: Path) -> list[Figure]:
    """Processor time of 1 % new clips, and of none, against that of all."""
    autoencoder = StackedAutoencoder(4, 4, 16, 16, 1).eval().requires_grad_(False)  # a small one, the harder case
    every, most = write_clips(place / "all", MANY), write_clips(place / "most", MANY - NEW)
    encode(most, autoencoder, place / "grown" / "out")

    def taken(clips: Clips) -> float:
        copy = place / "copy" / "out"
        shutil.rmtree(copy.parent, ignore_errors=True)
        shutil.copytree(place / "grown" / "out", copy)
        return cpu_seconds(lambda: encode(clips, autoencoder, copy))

    whole = cpu_seconds(lambda: encode(every, autoencoder, place / "whole" / "out"))
    fixed = [taken(most) for _ in range(3)]
    new = [taken(every) for _ in range(3)]
    work = tuple((one - min(fixed)) / whole for one in new)
    start = tuple(one / whole for one in fixed)
    return [
        Figure("1 % new clips", "without the start", f"{MANY} clips", "of the processor time", work, "limit 0.02"),
        Figure("nothing new", "looking, index, manifest", f"{MANY} clips", "of the processor time", start, "stated"),
    ]


def measure() -> list[Figure]:
    """Encoder figures on clips of the demo's form and an autoencoder of the demo's size."""
    with tempfile.TemporaryDirectory() as place:
        return [*against_forwards(Path(place) / "a"), *against_all(Path(place) / "b")]
