"""What a second process adds to encoding, beside what a second copy of the bare forward adds on the same cores.

    python -m benchmarks encode_processes

Each process has a core of its own in every round, so that one alone does not decode on the core of the other. A round
times encoding (decode, forward, write) and the forward on ready tensors, by one process and by both.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from benchmarks.encode import BATCH, FRAMES, PARAMS, RECIPES, SIDE, TEXT, write_clips
from benchmarks.paired import Figure
from pipelines.latents.encode import prepare, write_parts
from pipelines.latents.encoder import Encoder
from pipelines.latents.text import text_encoder
from pipelines.models.autoencoder import Autoencoder, PretrainedVideoAutoencoder, StackedAutoencoder

PROCESSES, ROUNDS = 2, 5
COUNTS = {"the demo's autoencoder": 128, "Wan's layout": 16}
"""Clips that a process encodes in a round."""


def network(name: str) -> Autoencoder:
    """The demo's autoencoder, or Wan's layout, narrower."""
    torch.manual_seed(0)
    if name == "the demo's autoencoder":
        return StackedAutoencoder(4, 8, 128, 16, 2).eval().requires_grad_(False)
    return PretrainedVideoAutoencoder(AutoencoderKLWan(base_dim=16, num_res_blocks=1))


def _actions(place: Path, name: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Encoding, and the forward alone, of as many clips."""
    count, autoencoder = COUNTS[name], network(name)
    clips = write_clips(place, count)
    encoder = Encoder(PARAMS, clips, autoencoder)
    encoder.text = text_encoder(TEXT, clips.catalog["caption"].tolist())
    ready = [torch.rand(BATCH, 3, FRAMES, SIDE, SIDE) * 2 - 1 for _ in range(count // BATCH)]

    def encode() -> None:
        plan, _ = prepare(clips, RECIPES, place / "none", place / "work")
        write_parts(place / "work", plan, plan.parts, encoder)
        shutil.rmtree(place / "work")

    @torch.no_grad()
    def forward() -> None:
        for video in ready:
            autoencoder.encode(video)

    return encode, forward


def _worker(place: Path, name: str, number: int, begin: Barrier, end: Barrier) -> None:
    """Every round: encoding and forward, the first process alone and then all."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})
    torch.set_num_threads(1)
    actions = _actions(place, name)
    for _ in range(1 + ROUNDS):
        for processes in (1, PROCESSES):
            for action in actions:
                begin.wait()
                if number < processes:
                    action()
                end.wait()


def measured(place: Path, name: str) -> list[Figure]:
    """The gain of encoding over the gain of the forward, round by round; the first one warms up."""
    context = multiprocessing.get_context("spawn")
    begin, end = context.Barrier(PROCESSES + 1), context.Barrier(PROCESSES + 1)
    workers = [
        context.Process(target=_worker, args=(place / str(number), name, number, begin, end), daemon=True)
        for number in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    rounds = []
    for _ in range(1 + ROUNDS):
        times = []
        for _ in range(4):
            begin.wait(300)
            began = time.monotonic()
            end.wait(300)
            times.append(time.monotonic() - began)
        encode_one, forward_one, encode_all, forward_all = times
        rounds.append((PROCESSES * encode_one / encode_all, PROCESSES * forward_one / forward_all))
    for worker in workers:
        worker.join()
    gains = rounds[1:]
    peer = "the same of the forward alone"
    return [
        Figure(f"gain of {PROCESSES} forwards, {name}", "both", "one", "x", tuple(two for _, two in gains), "stated"),
        Figure(
            f"gain of {PROCESSES} processes, {name}", "encoding", peer, "x", tuple(a / b for a, b in gains), "limit 0.9"
        ),
    ]


def measure() -> Iterator[Figure]:
    """Both autoencoders."""
    with tempfile.TemporaryDirectory() as place:
        for name in COUNTS:
            yield from measured(Path(place) / name.replace(" ", "-"), name)
