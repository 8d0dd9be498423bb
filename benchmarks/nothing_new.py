"""Running over footage again of which nothing is new, against another checkout of the project.

    REELGRAPH_BEFORE=<another checkout> [NOTHING_NEW_FILES=200] python -m benchmarks nothing_new

Files of 64 MB each: a clip with a long empty box behind it, so that they take little room on the disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.decode import frames
from benchmarks.mixed_folder import BEFORE, SIDE
from benchmarks.paired import Figure
from pipelines.data.video import write_mp4

COUNT = "NOTHING_NEW_FILES"
BYTES = 64 << 20
ROUNDS = 3
TWICE = SIDE.replace(
    '    work, given = Path(tempfile.mkdtemp()), params(folder)\n    (work / "out/clips")',
    "    work, given = Path(folder).parent / ('work' + sys.argv[2]), params(folder)\n"
    "    shutil.rmtree(work / 'out', ignore_errors=True)\n    (work / \"out/clips\")",
).replace("        shutil.rmtree(work)\n", "        pass\n")
"""The same work as of a mixed folder, but with what was kept of the run before."""


def draw(folder: Path, count: int) -> None:
    """``count`` files of different contents, changed a while ago."""
    for number in range(count):
        path = folder / f"{number:04d}.mp4"
        write_mp4(path, np.roll(frames(17, 64, 64, number % 7), number % 61, 2), 8.0)
        size = path.stat().st_size
        with path.open("ab") as file:
            file.write((BYTES - size).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big"))
            file.truncate(BYTES)
        os.utime(path, (time.time() - 1000,) * 2)


def measure() -> Iterator[Figure]:
    """A run without news, pair by pair, after a first run of each and one that learns the hashes of fresh clips."""
    before = os.environ.get(BEFORE)
    if not before:
        print(f"  {BEFORE} names no other checkout; nothing to compare with", flush=True)
        return
    count = int(os.environ.get(COUNT, "40"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "footage"
        folder.mkdir()
        draw(folder, count)
        pipe = subprocess.PIPE
        sides = [
            subprocess.Popen([sys.executable, "-c", TWICE, root, label], stdin=pipe, stdout=pipe, text=True)
            for root, label in ((str(Path(__file__).parents[1]), "ours"), (before, "theirs"))
        ]
        taken: list[list[float]] = []
        for number in range(ROUNDS + 2):
            if number == 1:
                for clip in Path(name).rglob("clip-*.mp4"):
                    os.utime(clip, (time.time() - 1000,) * 2)
            row = []
            for side in sides:
                assert side.stdin is not None and side.stdout is not None
                side.stdin.write(json.dumps(["cut", str(folder)]) + "\n")
                side.stdin.flush()
                row.append(json.loads(side.stdout.readline())[0])
            taken.append(row)
        for side in sides:
            side.communicate()
    found = tuple(ours / theirs for ours, theirs in taken[2:])
    yield Figure(f"{count} files of 64 MB, nothing new", "this", "before", "x processor time", found, "limit 0.05")
