"""Shards that lie elsewhere: the same samples, each moved once, within the cache's bound, and never damaged."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest

from pipelines.data import remote
from pipelines.data.batches import Batches
from pipelines.data.contract import ContractError
from pipelines.data.shards import Shards
from tests.data.sample_shards import sample, write_latents

FIELDS = ("latents", "prompt")


class Ranges(SimpleHTTPRequestHandler):
    """A file server that answers byte ranges, counts what it sends, and can be made to fail."""

    sent: ClassVar[list[int]] = []
    failures = 0
    answers_ranges = True

    def do_GET(self) -> None:
        kind = type(self)
        path = Path(self.directory) / self.path.lstrip("/")
        if kind.failures:
            kind.failures -= 1
            return self.send_error(503)
        if not path.is_file():
            return self.send_error(404)
        content = path.read_bytes()
        if kind.answers_ranges and (found := re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))):
            content = content[int(found[1]) : int(found[2]) + 1]
        kind.sent.append(len(content))
        self.send_response(206 if kind.answers_ranges else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Ranges]]:
    """Shards behind HTTP; the folder ``latents`` keeps index and manifest only."""
    write_latents(tmp_path / "latents")
    (tmp_path / "far").mkdir()
    for path in (tmp_path / "latents").glob("*.tar"):
        path.rename(tmp_path / "far" / path.name)
    kind = type("Here", (Ranges,), {"sent": [], "failures": 0, "answers_ranges": True})
    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, directory=str(tmp_path / "far")))
    thread = threading.Thread(target=served.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("REEL_SHARDS_URL", f"http://127.0.0.1:{served.server_port}")
    monkeypatch.setenv("REEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    yield kind
    served.shutdown()
    thread.join()
    served.server_close()


def cached(folder: Path) -> int:
    """Bytes that a cache takes on disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.glob("[0-9a-f]*"))


def check(shards: Shards, rows: list[int]) -> None:
    """Every sample is what was written."""
    for row, found in zip(rows, shards.read_many(rows, FIELDS), strict=True):
        _, fields, _ = sample(row)
        assert np.array_equal(found["latents"], fields["latents"]) and found["prompt"] == fields["prompt"]


def test_every_sample_comes_over_the_network_once(tmp_path: Path, server: type[Ranges]) -> None:
    shards = Shards(tmp_path / "latents")
    check(shards, [7, 0, 11, 7])
    assert sorted(server.sent) == sorted(int(shards.index.at[row, "size"]) for row in (7, 0, 11))
    check(Shards(tmp_path / "latents"), [11, 0, 7])  # another process finds them in the cache
    assert len(server.sent) == 3
    batches = Batches(shards, "train", FIELDS, batch_size=4, seed=0)
    assert batches.read(5, 0, 4)["key"] == batches.keys(5)
    assert shards.load([1, 2], "latents").shape[0] == 2


def test_memory_and_file_addresses_serve_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_latents(tmp_path / "latents")
    far = fsspec.filesystem("memory")
    for path in sorted(folder.glob("*.tar")):
        far.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    shutil.copytree(folder, tmp_path / "far")
    for path in folder.glob("*.tar"):
        path.unlink()
    for number, url in enumerate(("memory://bucket", "memory://bucket/", f"file://{tmp_path}/far")):
        monkeypatch.setenv("REEL_SHARDS_URL", url)
        monkeypatch.setenv("REEL_CACHE", str(tmp_path / f"cache-{number}"))
        check(Shards(folder), list(range(12)))


def test_shards_on_this_disk_need_no_network(tmp_path: Path, server: type[Ranges]) -> None:
    shutil.copy(tmp_path / "far/latents-00000.tar", tmp_path / "latents")
    check(Shards(tmp_path / "latents"), [0, 4])
    assert not server.sent


def test_the_cache_stays_within_its_bound_and_old_data_makes_room_first(
    tmp_path: Path, server: type[Ranges], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for number, name in enumerate(("aa", "bb")):
        (cache / name).write_bytes(bytes(20_000))
        os.utime(cache / name, (number, number))
    limit = 68_000
    monkeypatch.setenv("REEL_CACHE_GIB", f"{limit / 2**30:.12f}")
    shards = Shards(tmp_path / "latents")
    check(shards, [0, 5])
    assert (cache / "aa").exists()
    check(shards, [10])
    assert not (cache / "aa").exists() and (cache / "bb").exists()  # the least recently used went
    check(shards, list(range(12)))
    assert cached(cache) <= limit and not (cache / "bb").exists()
    before = len(server.sent)
    check(shards, [0, 5, 10])  # its own shards did not make room for one another
    assert len(server.sent) == before


def test_without_room_samples_are_fetched_whenever_they_are_read(
    tmp_path: Path, server: type[Ranges], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REEL_CACHE_GIB", "0")
    shards = Shards(tmp_path / "latents")
    check(shards, [3, 3])
    check(shards, [3])
    assert len(server.sent) == 2 and cached(tmp_path / "cache") == 0


def test_a_damaged_cache_is_fetched_again(tmp_path: Path, server: type[Ranges]) -> None:
    shards = Shards(tmp_path / "latents")
    check(shards, list(range(12)))
    for path in (tmp_path / "cache").glob("[0-9a-f]*"):
        content = bytearray(path.read_bytes())
        content[600:700] = bytes(100)
        path.write_bytes(content)
    check(shards, list(range(12)))
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    check(shards, [2])


def test_a_passing_fault_is_tried_again_and_a_lasting_one_is_told(tmp_path: Path, server: type[Ranges]) -> None:
    server.failures = 2
    check(Shards(tmp_path / "latents"), [1])
    server.failures = 99
    with pytest.raises(ContractError, match=r"127\.0\.0\.1:\d+/latents-00000\.tar: bytes \d+ to \d+: 503.*4 times"):
        Shards(tmp_path / "latents").read(2, FIELDS)


def test_what_arrives_damaged_is_not_used(tmp_path: Path, server: type[Ranges]) -> None:
    path = tmp_path / "far/latents-00001.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    with pytest.raises(ContractError, match=r"clip-005\.latents\.npy differs from its checksum, 4 times"):
        Shards(tmp_path / "latents").read(5, FIELDS)
    check(Shards(tmp_path / "latents"), [6])
    server.answers_ranges = False
    with pytest.raises(ContractError, match="the server must answer byte ranges"):
        Shards(tmp_path / "latents").read(0, FIELDS)


def test_an_address_without_the_shard_is_told_at_once(
    tmp_path: Path, server: type[Ranges], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far/latents-00002.tar").unlink()
    with pytest.raises(ContractError, match=r"latents-00002\.tar: not found, or no answer.*REEL_SHARDS_URL"):
        Shards(tmp_path / "latents").read(11, FIELDS)
    monkeypatch.setenv("REEL_SHARDS_URL", "ftpx://user:secret@host/x")
    with pytest.raises(ContractError, match="ftpx://host/x") as told:
        Shards(tmp_path / "latents")
    assert "secret" not in str(told.value)
    monkeypatch.setenv("REEL_CACHE_GIB", "much")
    with pytest.raises(ContractError, match="REEL_CACHE_GIB is 'much'; write a number of GiB"):
        Shards(tmp_path / "latents")
    monkeypatch.delenv("REEL_SHARDS_URL")
    with pytest.raises(ContractError, match=r"named in manifest\.json but missing.*REEL_SHARDS_URL says where it lies"):
        Shards(tmp_path / "latents").read(11, FIELDS)


READ_ALL = """
import sys
from pathlib import Path
from pipelines.data.shards import Shards
from tests.data.sample_shards import sample
for _ in range(5):
    found = Shards(Path(sys.argv[1])).read_many(list(range(12)), ("latents",))
    assert all((one["latents"] == sample(row)[1]["latents"]).all() for row, one in enumerate(found))
"""


@pytest.mark.costly
def test_two_processes_share_one_cache(tmp_path: Path, server: type[Ranges], monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 40_000
    monkeypatch.setenv("REEL_CACHE_GIB", f"{limit / 2**30:.12f}")
    command = [sys.executable, "-c", READ_ALL, str(tmp_path / "latents")]
    readers = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(2)]
    assert [reader.wait(timeout=60) for reader in readers] == [0, 0]
    assert cached(tmp_path / "cache") <= limit
