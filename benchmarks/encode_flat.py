"""Cost of a clip from 10^3 to 10^5 clips: processor time and peak memory of the whole encoding, a process per size.

    python -m benchmarks encode_flat

Clips of the demo's form (every 32 of them are one file under other names) through a small autoencoder, which is the
harder case: what grows is seen beside little else. All is counted from the catalog to the finished folder: looking,
decoding, forward, text, shards, index and manifest; nothing is taken off for the start. ``ENCODE_FLAT_CLIPS`` gives
other sizes, the first of which the others are divided by.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.encode import encode, write_clips
from benchmarks.paired import Figure
from pipelines.models.autoencoder import StackedAutoencoder

SIZES, SIZES_NAME = "1000,10000,100000", "ENCODE_FLAT_CLIPS"
TOLERANCE = 0.10
FIRST_ROUNDS = 3
"""The first size is the shortest run and divides the others: so many before and after each."""


def taken(count: int, place: Path) -> tuple[float, float]:
    """Processor seconds of encoding so many clips in this process and its children, and its peak memory in MiB."""
    autoencoder = StackedAutoencoder(4, 4, 16, 16, 1).eval().requires_grad_(False)
    clips = write_clips(place / "warm", 64)
    encode(clips, autoencoder, place / "warm" / "out" / "latents")  # what is loaded once, whatever the number of clips
    clips = write_clips(place / "all", count)
    before = os.times()
    encode(clips, autoencoder, place / "all" / "out" / "latents")
    after = os.times()
    spent = sum(after[:4]) - sum(before[:4])
    return spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def in_process(count: int) -> tuple[float, float]:
    """:func:`taken` in a process of its own, so that memory is of this size alone."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "benchmarks.encode_flat", str(count), place]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    spent, peak = map(float, done.stdout.splitlines()[-1].split())
    return spent, peak


def shown(count: int, rounds: int) -> list[float]:
    """Processor seconds a clip of each round, after a line that tells them."""
    began = time.monotonic()
    spent, peaks = zip(*(in_process(count) for _ in range(rounds)), strict=True)
    wall = time.monotonic() - began
    each = [seconds / count for seconds in spent]
    milliseconds = ", ".join(f"{1000 * one:.3f}" for one in each)
    print(f"| {count:,} clips | {milliseconds} ms a clip | {max(peaks):.0f} MiB | {wall:.0f} s in all |", flush=True)
    return each


def measure() -> Iterator[Figure]:
    """Cost per clip of each size over that of the first, which runs before and after it: a machine's speed drifts."""
    first, *others = (int(size) for size in os.environ.get(SIZES_NAME, SIZES).split(","))
    before = shown(first, FIRST_ROUNDS)
    for count in others:
        (each,) = shown(count, 1)
        after = shown(first, FIRST_ROUNDS)
        found = tuple(each / one for one in (*before, *after))
        yield Figure(
            f"cost of a clip of {count:,}", "this", f"that of {first:,}", "x", found, f"target 1 within {TOLERANCE:g}"
        )
        before = after


if __name__ == "__main__":
    torch.manual_seed(0)
    print(*taken(int(sys.argv[1]), Path(sys.argv[2])))
