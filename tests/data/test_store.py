"""Shards written where trainers read them: once, whole, and told in bytes. The S3 side is in `make cluster-test`."""

from __future__ import annotations

import shutil
from pathlib import Path

import fsspec
import pytest

from pipelines.data import store
from pipelines.data.contract import ContractError
from pipelines.data.remote import URL
from pipelines.data.shards import Shards
from pipelines.stage import file_digest
from tests.data.sample_shards import write_latents


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address on a disk, and one of a store in which objects appear whole."""
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        return "memory://lab/latents"
    return f"file://{tmp_path}/lab/latents"


def test_every_shard_is_moved_once_and_again_where_its_bytes_are_others(place: str, tmp_path: Path) -> None:
    folder = write_latents(tmp_path / "latents")
    shards = Shards(folder).manifest.shards
    size = sum((folder / name).stat().st_size for name in shards)
    first, again = store.Store(place), store.Store(place)
    store.complete(folder, shards, first)
    store.complete(folder, shards, again)
    assert (first.moved, first.there, again.moved, again.there) == (size, 0, 0, size)
    name = next(iter(shards))
    (folder / name).write_bytes(bytes(len((folder / name).read_bytes())))  # as long, of other content
    other = store.Store(place)
    other.put(folder / name, name, file_digest(folder / name))
    assert other.moved == (folder / name).stat().st_size
    assert other.files.cat_file(f"{other.root}/{name}") == (folder / name).read_bytes()


def test_an_upload_that_broke_off_is_made_again(place: str, tmp_path: Path) -> None:
    """Without its mark a shard does not count, whatever stands there: the mark is written last, and removed first."""
    shard = tmp_path / "latents-00000.tar"
    shard.write_bytes(b"content")
    one = store.Store(place)
    one.put(shard, shard.name, file_digest(shard))
    one.files.rm_file(f"{one.root}/{shard.name}{store.MARK}")
    assert not one.has(shard.name, 7, file_digest(shard))
    again = store.Store(place)
    again.put(shard, shard.name, file_digest(shard))
    assert again.moved == 7 and again.has(shard.name, 7, file_digest(shard))


def test_what_is_written_is_read_by_a_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_latents(tmp_path / "latents")
    whole = Shards(folder)
    store.complete(folder, whole.manifest.shards, store.Store(f"file://{tmp_path}/lab"))
    small = tmp_path / "small"
    shutil.copytree(folder, small, ignore=shutil.ignore_patterns("*.tar"))
    monkeypatch.setenv(URL, f"file://{tmp_path}/lab")
    monkeypatch.setenv("REEL_CACHE", str(tmp_path / "cache"))
    elsewhere = Shards(small)
    for row in range(whole.manifest.num_samples):
        assert (elsewhere.read(row, ("latents",))["latents"] == whole.read(row, ("latents",))["latents"]).all()


def test_an_address_that_is_only_read_is_not_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL, "https://example.org/latents")
    assert store.configured() is None
    monkeypatch.delenv(URL)
    assert store.configured() is None


def test_a_place_that_refuses_is_told_with_the_shard_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PAUSE", 0.0)
    (tmp_path / "lab").write_text("a file, no folder")
    shard = tmp_path / "latents-00000.tar"
    shard.write_bytes(b"content")
    one = store.Store(f"file://{tmp_path}/lab/latents")
    with pytest.raises(ContractError, match=r"latents-00000\.tar: .*REEL_SHARDS_URL"):
        one.put(shard, shard.name, "0" * 64)
