"""The search for look-alikes on footage of which much is equal in all clips, by number of clips.

    [REELGRAPH_BEFORE=<another checkout>] [LOOKALIKES=1000] python -m benchmarks lookalikes

Processor time of the search alone, for so many clips and for four times as many: linear work takes four times as long.
Each side hashes and searches with the code of its own checkout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.mixed_folder import BEFORE
from benchmarks.paired import Figure

COUNT = "LOOKALIKES"
KINDS = ("bars above", "bars beside", "a subtitle in the bars", "half of one level")
TIMES, ROUNDS = 4, 3
SIDE = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from pipelines.footage import quality
try:
    from pipelines.footage.lookalikes import lookalikes
except ImportError:
    from pipelines.footage.quality import lookalikes as by_source
    def lookalikes(hashes, labels, max_bits):
        return by_source(hashes, [source for source, in labels], max_bits)
def frames(kind, seed):
    random = np.random.default_rng(seed)
    coarse = random.integers(40, 230, (5, 8, 8, 3)).astype(np.uint8)
    scene, made = coarse.repeat(8, 1).repeat(8, 2), random.integers(0, 12, (5, 64, 64, 3), np.uint8)
    if kind == "half of one level":
        scene[:, 32:] = 128
        return scene
    if kind == "bars beside":
        made[:, :, 16:48] = scene[:, :, ::2]
    else:
        made[:, 16:48] = scene[:, ::2]
    if kind == "a subtitle in the bars":
        made[:, 54:58, 20:44:2] = 235
    return made
for line in sys.stdin:
    kind, counts, rounds = json.loads(line)
    hashes = [quality.perceptual_hash(frames(kind, seed)) for seed in range(max(counts))]
    taken = []
    for count in counts * rounds:
        labels, began = [(str(place),) for place in range(count)], time.process_time()
        lookalikes(hashes[:count], labels, 15)
        taken.append(time.process_time() - began)
    print(json.dumps(taken), flush=True)
"""


def searched(root: str, count: int) -> dict[str, list[float]]:
    """Seconds per kind of footage: of so many clips and of four times as many, in turn."""
    words = [json.dumps([kind, [count, TIMES * count], ROUNDS]) for kind in KINDS]
    done = subprocess.run(
        [sys.executable, "-c", SIDE, root], input="\n".join(words), stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(zip(KINDS, map(json.loads, done.stdout.splitlines()), strict=True))


def measure() -> Iterator[Figure]:
    """How the work grows, and what it is of the other checkout's."""
    count, before = int(os.environ.get(COUNT, "1000")), os.environ.get(BEFORE)
    ours = searched(str(Path(__file__).parents[1]), count)
    theirs = searched(before, count) if before else {}
    for kind, taken in ours.items():
        grown = tuple(many / few for few, many in zip(taken[::2], taken[1::2], strict=True))
        print(f"  {kind}: {TIMES * count:,} clips in {min(taken[1::2]):.2f} processor seconds", flush=True)
        name = f"look-alikes, {kind}, {count:,} clips and {TIMES} times as many"
        yield Figure(name, "four times the clips", "the clips", "x processor time", grown, "4 is linear")
        if kind in theirs:
            old = theirs[kind]
            grown_before = ", ".join(f"{many / few:.1f}" for few, many in zip(old[::2], old[1::2], strict=True))
            print(f"  before: {min(old[1::2]):.2f} processor seconds, growing by {grown_before}", flush=True)
            found = tuple(one / other for one, other in zip(taken[1::2], old[1::2], strict=True))
            yield Figure(
                f"look-alikes, {kind}, {TIMES * count:,} clips", "this", "before", "x processor time", found, "below 1"
            )
