"""A folder of mixed files to clips, and reading clips back: processor time against another checkout of the project.

    REELGRAPH_BEFORE=<another checkout> [MIXED_FILES=2000] python -m benchmarks mixed_folder

Each side is a process of its own that imports its checkout; they take turns. With many files, of which there is one
round, they run side by side, so that a machine whose speed drifts slows both. Files are drawn here: seven kinds of
codec and container, 2 to 5 seconds, 25 frames per second, from 320 x 240 to 854 x 480, each a little different in its
bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from benchmarks.decode import SIZES, frames
from benchmarks.paired import Figure
from pipelines.data.video import write_mp4

BEFORE, COUNT = "REELGRAPH_BEFORE", "MIXED_FILES"
ROUNDS = 5
MANY = 500
"""Files from which there is one round."""
KINDS = (
    ("mp4", "libx264", "yuv420p", {"crf": "21", "preset": "medium"}),
    ("mkv", "libx264", "yuv420p", {"crf": "21", "preset": "fast", "bf": "3"}),
    ("mp4", "libx265", "yuv420p", {"preset": "fast", "x265-params": "log-level=none:pools=1"}),
    ("webm", "libvpx-vp9", "yuv420p", {"crf": "33", "b": "0", "deadline": "realtime", "cpu-used": "8"}),
    ("ts", "mpeg2video", "yuv420p", {"b": "3M", "bf": "2"}),
    ("avi", "mpeg4", "yuv420p", {"b": "1M", "bf": "2"}),
    ("mov", "mjpeg", "yuvj420p", {"b": "6M"}),
)
SHAPES = ((360, 640), (240, 320), (480, 854))
DRAWN = 21
"""Different files; more are these with other bytes behind them."""

SIDE = """
import json, shutil, sys, tempfile, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from pipelines.data.video import read_clip
from pipelines.footage.ingest import ingest
from pipelines.footage.params import RawVideoParams
from pipelines.stage import StageError
limits = {"max_pixels": 9437184, "max_frames": 200000, "max_seconds": 10800.0, "max_bytes": 1 << 36,
          "max_decode_seconds": 3600.0}
def parsed(folder, more, splits):
    cutting = {"stride": 1.0, "shots": {"threshold": 0.15, "ratio": 2.5}, "buckets": None, **more}
    quality = dict.fromkeys(("motion", "sharpness", "duplicate", "caption"))
    block = {"path": folder, "media": "videos", "captions": None, "prompt_prefix": None, "cutting": cutting,
             "quality": quality, "max_clips_per_video": None, "max_rejected_share": 1.0, "limits": limits}
    clip = {"num_frames": 17, "height": 64, "width": 64, "frame_rate": 8.0, "crf": 10}
    return RawVideoParams.model_validate({"clip": clip, **splits, "source": {"folder": block}})
def params(folder):
    for more in ({}, {"hold": None}):
        for splits in ({"held_out_share": 0.125}, {"splits": {"validation": 0.125, "test": 0.125}}):
            try:
                return parsed(folder, more, splits)
            except ValueError as error:
                last = error
    raise last
def cut(folder):
    work, given = Path(tempfile.mkdtemp()), params(folder)
    (work / "out/clips").mkdir(parents=True)
    try:
        return len(ingest(given, given.source.footage, work, work / "out").clips)
    except StageError:  # copies of few videos may leave a split empty, after all the work
        return 0
    finally:
        shutil.rmtree(work)
def read(folder):
    return sum(len(read_clip(path)) for path in sorted(Path(folder).iterdir()))
out = sys.stdout
sys.stdout = sys.stderr
for line in sys.stdin:
    what, folder = json.loads(line)
    began = time.process_time()
    found = {"cut": cut, "read": read}[what](folder)
    print(json.dumps([time.process_time() - began, found]), file=out, flush=True)
"""


def draw(path: Path, number: int) -> None:
    """One file: drifting colours with edges and noise."""
    _, codec, form, options = KINDS[number % len(KINDS)]
    height, width = SHAPES[number // len(KINDS) % len(SHAPES)]
    random, count = np.random.default_rng(number), 50 + 19 * (number % 5)
    y, x = np.mgrid[:height, :width]
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, form
        stream.codec_context.thread_count = 1
        for place in range(count):
            wave = np.sin((x + 4 * place) / 23) + np.cos((y - 3 * place) / 31)
            edges = 60.0 * ((x // 24 + y // 24 + place // 6) % 2)
            pixels = 90 + 40 * wave[..., None] * random.uniform(0.6, 1, 3) + edges[..., None]
            pixels = (pixels + random.normal(0, 4, (height, width, 1))).clip(0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = place, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def marked(content: bytes, ending: str, number: int) -> bytes:
    """The same video with other bytes behind it: a box that players pass over, an empty packet, or trailing bytes."""
    told = number.to_bytes(8, "big")
    if ending in ("mp4", "mov"):
        return content + (16).to_bytes(4, "big") + b"free" + told
    if ending == "ts":
        return content + b"\x47\x1f\xff\x10" + told + bytes(176)
    return content + told


def fill(folder: Path, count: int) -> None:
    """``count`` files."""
    drawn = []
    for number in range(min(count, DRAWN)):
        ending = KINDS[number % len(KINDS)][0]
        path = folder / f"{number:05d}.{ending}"
        draw(path, number)
        drawn.append((ending, path.read_bytes()))
    for number in range(DRAWN, count):
        ending, content = drawn[number % DRAWN]
        (folder / f"{number:05d}.{ending}").write_bytes(marked(content, ending, number))


def turns(before: str, what: str, folder: Path, rounds: int) -> tuple[float, ...]:
    """Processor time of this checkout over that of the other one, pair by pair, after a warm-up."""
    with _sides(before) as sides:
        found = []
        for _ in range(rounds + 1):
            taken = []
            for side in sides:
                _ask(side, what, folder)
                taken.append(_answer(side))
            found.append(taken[0] / taken[1])
        return tuple(found[1:])


def side_by_side(before: str, what: str, folder: Path, warm: Path) -> tuple[float, ...]:
    """The same of one round, with both sides at once, after a warm-up on a smaller folder.

    The side that is done first goes on with the smaller folder, uncounted: a processor that it left would make the
    other's last files cheaper than its own were.
    """
    with _sides(before) as sides:
        taken = [0.0, 0.0]
        for asked in (warm, folder):
            for side in sides:
                _ask(side, what, asked)
            taken = _first_answers(sides, what, warm)
        print(f"  processor time: this {taken[0]:.1f} s, before {taken[1]:.1f} s", flush=True)
        return (taken[0] / taken[1],)


@contextlib.contextmanager
def _sides(before: str) -> Iterator[list[subprocess.Popen[str]]]:
    """A process that waits for work, for this checkout and for the other one."""
    here = str(Path(__file__).parents[1])
    sides = [
        subprocess.Popen([sys.executable, "-c", SIDE, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for root in (here, before)
    ]
    try:
        yield sides
    finally:
        for side in sides:
            side.communicate()


def _ask(side: subprocess.Popen[str], what: str, folder: Path) -> None:
    assert side.stdin is not None
    side.stdin.write(json.dumps([what, str(folder)]) + "\n")
    side.stdin.flush()


def _answer(side: subprocess.Popen[str]) -> float:
    assert side.stdout is not None
    return json.loads(side.stdout.readline())[0]


def _first_answers(sides: list[subprocess.Popen[str]], what: str, meanwhile: Path) -> list[float]:
    """What each answers first; whoever has answered works on ``meanwhile`` until all have."""
    with selectors.DefaultSelector() as waiting:
        for place, side in enumerate(sides):
            assert side.stdout is not None
            waiting.register(side.stdout, selectors.EVENT_READ, place)
        found: dict[int, float] = {}
        while len(found) < len(sides):
            for key, _ in waiting.select():
                taken = _answer(sides[key.data])
                found.setdefault(key.data, taken)
                if len(found) < len(sides):
                    _ask(sides[key.data], what, meanwhile)
    last = list(found)[-1]
    for place, side in enumerate(sides):
        if place != last:
            _answer(side)  # of the work meanwhile
    return [found[place] for place in range(len(sides))]


def _of_many(before: str, folder: Path) -> tuple[float, ...]:
    warm = folder.with_name("first")
    warm.mkdir()
    for path in sorted(folder.iterdir())[:DRAWN]:
        (warm / path.name).hardlink_to(path)
    return side_by_side(before, "cut", folder, warm)


def measure() -> Iterator[Figure]:
    """Cutting a folder and reading clips of two sizes, against the other checkout; nothing without one."""
    before = os.environ.get(BEFORE)
    if not before:
        print(f"  {BEFORE} names no other checkout; nothing to compare with", flush=True)
        return
    count = int(os.environ.get(COUNT, "63"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "mixed"
        folder.mkdir()
        fill(folder, count)
        found = turns(before, "cut", folder, ROUNDS) if count < MANY else _of_many(before, folder)
        yield Figure(f"{count} mixed files to clips", "this", "before", "x processor time", found, "limit 0.67")
        for title, (length, height, width, clips) in SIZES.items():
            folder = Path(name) / title.replace(" ", "")
            folder.mkdir()
            for number in range(clips):
                write_mp4(folder / f"{number}.mp4", frames(length, height, width, number), 8.0)
            found = turns(before, "read", folder, 15)
            yield Figure(f"read_clip, {title}", "this", "before", "x processor time", found, "limit 1.15")
