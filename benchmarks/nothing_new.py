"""Running over footage again of which nothing is new, against another checkout of the project.

    REELGRAPH_BEFORE=<another checkout> [NOTHING_NEW_FILES=1000] [NOTHING_NEW_ROUNDS=1] python -m benchmarks nothing_new

Files of 64 MB each: a clip with a long empty box behind it, of which the disk keeps nothing but its length. So 1,000 of
them take some megabytes, and reading them costs what reading 64 GB from memory does. The first run of each side cuts
the clips and is not counted; nor is the second, which learns the hashes of clips that were new in the first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.decode import frames
from benchmarks.mixed_folder import BEFORE, SIDE
from benchmarks.paired import Figure
from pipelines.data.video import write_mp4

COUNT, ROUNDS = "NOTHING_NEW_FILES", "NOTHING_NEW_ROUNDS"
BYTES = 64 << 20
HERE = str(Path(__file__).parents[1])
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
    settle(folder)


def settle(folder: Path, names: str = "*.mp4") -> None:
    """Files that have just been written are hashed again: their next change might bear the same time."""
    before = time.time() - 1000
    for path in folder.rglob(names):
        os.utime(path, (before, before))


def measure() -> Iterator[Figure]:
    """A run without news, pair by pair, after a first run of each and one that learns the hashes of fresh clips."""
    before = os.environ.get(BEFORE)
    if not before:
        print(f"  {BEFORE} names no other checkout; nothing to compare with", flush=True)
        return
    count, rounds = int(os.environ.get(COUNT, "40")), int(os.environ.get(ROUNDS, "3"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "footage"
        folder.mkdir()
        draw(folder, count)
        ours, theirs = (started(root, label) for root, label in ((HERE, "ours"), (before, "theirs")))
        print(f"  first run: this {run(ours, folder)}, before {run(theirs, folder)}", flush=True)
        settle(Path(name), "clip-*.mp4")
        run(ours, folder)
        pairs = [(run(ours, folder), run(theirs, folder)) for _ in range(rounds)]
        for side in (ours, theirs):
            side.communicate()
    for one, other in pairs:
        print(f"  nothing new: this {one}, before {other}", flush=True)
    found = tuple(one.seconds / other.seconds for one, other in pairs)
    yield Figure(f"{count} files of 64 MB, nothing new", "this", "before", "x processor time", found, "limit 0.05")


@dataclass(frozen=True)
class Spent:
    """Processor seconds of a run, and the bytes that it has read."""

    seconds: float
    bytes_read: int

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s, {self.bytes_read / 2**20:,.0f} MiB read"


def started(root: str, label: str) -> subprocess.Popen[str]:
    """A process of one checkout that waits for work."""
    command = [sys.executable, "-c", TWICE, root, label]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run(side: subprocess.Popen[str], folder: Path) -> Spent:
    """One run over the folder."""
    assert side.stdin is not None and side.stdout is not None
    before = psutil.Process(side.pid).io_counters().read_chars
    side.stdin.write(json.dumps(["cut", str(folder)]) + "\n")
    side.stdin.flush()
    seconds = json.loads(side.stdout.readline())[0]
    return Spent(seconds, psutil.Process(side.pid).io_counters().read_chars - before)
