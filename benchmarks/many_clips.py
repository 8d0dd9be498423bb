"""What the platform costs over 250,000 clips: `reel status`, `reel plan`, and a tick of the sensor on dvc.lock.

    python -m benchmarks many_clips

A project of the stages ``raw_video`` and ``latent_shards`` as they stand here, with a file per clip (a few bytes each)
and sparse shards, recorded by `dvc commit`. Said are processor seconds and peak memory; the system counts to a process
the memory of the one that started it, so that what is said is at least that of this benchmark (some 350 MiB).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.paired import Figure
from benchmarks.scale import RECIPES, shards_of, write_catalog
from pipelines.data.catalog import read_catalog
from pipelines.data.contract import AutoencoderFacts, TextFacts
from pipelines.latents import folder

REPO = Path(__file__).parents[1]
COUNT = "MANY_CLIPS"
STAGES = ("raw_video", "latent_shards")
TICK_SECONDS, COMMAND_MIB = 0.1, 1024
REEL = (sys.executable, "-m", "dagster_project.cli")
TICK = """
import sys, time, dagster as dg
from dagster_dvc.follower import Follower
follower, instance, cursor = Follower(sys.argv[1]), dg.DagsterInstance.ephemeral(), None
def tick():
    global cursor
    began = time.process_time()
    said, cursor = follower.tick(lambda: instance, cursor)
    return time.process_time() - began, said
until, quiet = time.monotonic() + 500, 0
while quiet < 3 and time.monotonic() < until:  # until the look, a process of its own, has ended and is reported
    before = cursor
    spent, said = tick()
    quiet = quiet + 1 if cursor == before and said == "nothing new" else 0
    follower.wait()
    time.sleep(0.5)
print(min(tick()[0] for _ in range(5)), said)
"""
"""A tick in which nothing moved, in a process as Dagster's code location is one."""


def make(root: Path, count: int) -> None:
    """The project, with everything recorded."""
    entries = yaml.safe_load((REPO / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    sections = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))
    stages: dict[str, Any] = {name: entries[name] | {"params": [name], "deps": []} for name in STAGES}
    stages["latent_shards"]["deps"] = ["data/clips"]
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    (root / "params.yaml").write_text(yaml.safe_dump({name: sections[name] for name in STAGES}), encoding="utf-8")
    for name in STAGES:
        for made in (f"metrics/{name}.json", f"plots/{name}/note.json"):
            (root / made).parent.mkdir(parents=True, exist_ok=True)
            (root / made).write_text("{}\n", encoding="utf-8")
    clips, latents = root / "data/clips", root / "data/latents"
    write_catalog(clips, count)
    catalog = read_catalog(clips)
    (clips / "clips").mkdir()
    for number, file in enumerate(catalog["file"]):
        (clips / str(file)).write_bytes(number.to_bytes(8, "big"))
    latents.mkdir()
    scale: dict[str, Any] = {"latent_mean": (0.0,) * 16, "latent_std": (1.0,) * 16}
    autoencoder = AutoencoderFacts(id="a", digest="0" * 64, temporal_stride=4, spatial_stride=8, **scale)
    text = TextFacts(id="t", digest="0" * 64, dim=64)
    folder.write_folder(latents, catalog, shards_of(catalog, root / ".made"), autoencoder, text, RECIPES)
    shutil.rmtree(root / ".made")
    dvc = [sys.executable, "-m", "dvc"]
    for words in (["init", "--no-scm", "-q"], ["config", "cache.type", "hardlink"], ["commit", "-f", "-q"]):
        subprocess.run([*dvc, *words], cwd=root, check=True, stdout=subprocess.DEVNULL)


def cost(root: Path, command: Sequence[str]) -> tuple[float, float, str]:
    """Processor seconds and peak MiB of a command in the project, and what it printed."""
    environment = os.environ | {"REEL_PROJECT": str(root), "PYTHONPATH": str(REPO), "DVC_NO_ANALYTICS": "1"}
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = out.read()
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 2**10, said


def measure() -> Iterator[Figure]:
    """The two commands, cold and once more, and the tick."""
    count = int(os.environ.get(COUNT, "250000"))
    words = f"{count:,} clips"
    with tempfile.TemporaryDirectory() as place:
        root, began = Path(place), time.monotonic()
        make(root, count)
        print(f"| {words} | made and recorded in {time.monotonic() - began:.0f} s |", flush=True)
        for name in ("status", "plan"):
            for turn in ("first", "again"):
                spent, memory, said = cost(root, [*REEL, name])
                print(f"| {words} | reel {name}, {turn} | {spent:.2f} s | {memory:.0f} MiB |", flush=True)
            print("    " + "\n    ".join(said.strip().splitlines()[:4]), flush=True)
            yield Figure(
                f"reel {name} over {words}", "this", f"{COMMAND_MIB} MiB", "x", (memory / COMMAND_MIB,), "limit 1"
            )
        _, _, said = cost(root, [sys.executable, "-W", "ignore", "-c", TICK, str(root)])
        print(f"| {words} | a tick: {said.strip()[-300:]} |", flush=True)
        spent = float(said.strip().splitlines()[-1].split()[0])
        limit = f"{TICK_SECONDS} processor seconds"
        yield Figure(f"a sensor's tick over {words}", "this", limit, "x", (spent / TICK_SECONDS,), "limit 1")
