"""Shards: equal bytes for equal samples, every read exact, every damage named."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.batches import Batches, collate
from pipelines.data.contract import ContractError
from pipelines.data.shards import Shards
from pipelines.data.tar import array, npy_bytes, write_shard
from pipelines.data.verify import main as verification
from pipelines.data.verify import verify
from tests.data.sample_shards import sample, write_latents

ALL = ("latents", "prompt_embeds", "prompt", "actions")


@given(
    shape=st.lists(st.integers(0, 3), max_size=4),
    dtype=st.sampled_from(["float16", "float32", "int64", "bool", ">f4"]),
)
@settings(max_examples=40, deadline=None)
def test_an_array_survives_its_file_format(shape: list[int], dtype: str) -> None:
    values = (np.arange(int(np.prod(shape))) % 7).reshape(shape).astype(dtype)
    content = npy_bytes(values)
    assert np.array_equal(array(memoryview(content)), values)
    assert np.array_equal(np.load(io.BytesIO(content), allow_pickle=False), values)


def test_every_field_comes_back_exactly_in_any_order(tmp_path: Path) -> None:
    shards = Shards(write_latents(tmp_path / "latents"))
    for row in (7, 0, 11, 4):
        _, fields, _ = sample(row)
        found = shards.read(row, ALL)
        assert found["prompt"] == fields["prompt"]
        for name in ("latents", "prompt_embeds", "actions"):
            assert np.array_equal(found[name], fields[name]) and found[name].dtype == fields[name].dtype
    assert set(shards.read(0, ("actions",))) == {"actions"}
    assert shards.load(shards.rows("validation"), "latents").shape == (3, 2, 2, 3, 3)
    assert shards.empty_prompt.shape == (1, 3)


def test_only_so_many_shards_are_open_and_what_was_read_from_others_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.data.shards.OPEN_SHARDS", 2)
    shards = Shards(write_latents(tmp_path / "latents", num_samples=12, per_shard=1))
    found = [one["latents"] for one in shards.read_many(range(12), ("latents",))]
    assert len(shards._maps) == 2
    assert all(np.array_equal(one, sample(number)[1]["latents"]) for number, one in enumerate(found))


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    first, second = write_latents(tmp_path / "a"), write_latents(tmp_path / "b")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_webdataset_reads_our_shards(tmp_path: Path) -> None:
    import webdataset

    path = write_latents(tmp_path / "latents") / "latents-00001.tar"
    with path.open("rb") as stream:  # WebDataset(url) leaves its file open, and warnings are errors here
        sources = [{"url": str(path), "stream": stream}]
        readers = webdataset.tariterators.tar_file_expander, webdataset.tariterators.group_by_keys
        found = list(webdataset.DataPipeline(lambda: iter(sources), *readers, webdataset.decode()))
    assert [one["__key__"] for one in found] == [f"clip-{number:03d}" for number in range(5, 10)]
    for number, one in enumerate(found, start=5):
        _, fields, sidecar = sample(number)
        assert np.array_equal(one["latents.npy"], fields["latents"])
        assert one["prompt.txt"] == fields["prompt"] and one["json"] == sidecar


def test_a_shard_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> object:
        yield sample(0)
        raise RuntimeError("no power")

    with pytest.raises(RuntimeError):
        write_shard(tmp_path / "latents-00000.tar", broken())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["a.b", "../a", "A", "", "a" * 81])
def test_a_key_that_a_tar_or_webdataset_would_misread_is_refused(tmp_path: Path, key: str) -> None:
    _, fields, sidecar = sample(0)
    with pytest.raises(ContractError, match="key"):
        write_shard(tmp_path / "latents-00000.tar", [(key, fields, sidecar)])


# ---- damage -------------------------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_flipped_bit_is_found_with_its_shard_and_member(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    folder = tmp_path_factory.mktemp("damage") / "latents"
    write_latents(folder, num_samples=3, per_shard=2)
    path = folder / "latents-00000.tar"
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    [damage, *_] = verify(folder)
    assert damage.file == path.name
    with tarfile.open(write_latents(folder.with_name("whole"), 3, 2) / path.name) as tar:
        members = tar.getmembers()
    inside = [member for member in members if member.offset_data <= place < member.offset_data + member.size]
    if inside:
        assert (damage.member, damage.offset) == (inside[0].name, inside[0].offset_data)


def test_missing_foreign_and_truncated_shards_and_changed_files_are_found(tmp_path: Path) -> None:
    folder = write_latents(tmp_path / "latents")
    assert list(verify(folder)) == []
    shutil.copy(folder / "latents-00000.tar", folder / "latents-00009.tar")
    (folder / "latents-00001.tar").unlink()
    os.truncate(folder / "latents-00002.tar", 600)
    facts = Shards(folder).manifest.shards
    (folder / "empty_prompt.npy").write_bytes(b"")
    assert [str(damage) for damage in verify(folder)] == [
        "latents-00009.tar, offset 0: a foreign shard, not in the manifest",
        "empty_prompt.npy, offset 0: is not the file that the manifest records",
        "latents-00001.tar, offset 0: missing",
        f"latents-00002.tar, offset 600: has 600 bytes, {facts['latents-00002.tar'].size} are recorded",
        "latents-00002.tar, member clip-010.latents.npy, offset 512: cut after 88 of 200 bytes",
    ]


def test_reel_verify_ends_with_1_for_damage_and_2_where_there_is_nothing_to_verify(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_latents(tmp_path / "latents", num_samples=3, per_shard=3)
    assert verification([str(folder)]) == 0
    path = folder / "latents-00000.tar"
    with tarfile.open(path) as tar:
        member = tar.getmember("clip-001.prompt.txt")
    content = bytearray(path.read_bytes())
    content[member.offset_data + member.size + 7] ^= 2  # in the zeros after a member
    path.write_bytes(content)
    capsys.readouterr()
    assert verification([str(folder)]) == 1
    place = member.offset_data + member.size + 7
    told = f"{folder}/latents-00000.tar, offset {place}: padding after clip-001.prompt.txt was changed"
    assert told in capsys.readouterr().out
    assert verification([str(tmp_path)]) == 2
    assert "so " + str(tmp_path) + " holds no latents" in capsys.readouterr().err


def test_an_index_that_cannot_be_read_hides_no_damage_of_shards(tmp_path: Path) -> None:
    folder = write_latents(tmp_path / "latents", num_samples=3, per_shard=3)
    (folder / "index.parquet").write_bytes(b"PAR1 broken")
    os.truncate(folder / "latents-00000.tar", 700)
    files = [damage.file for damage in verify(folder)]
    assert files[0] == "index.parquet" and set(files[1:]) == {"latents-00000.tar"}


def test_a_reader_never_skips_a_damaged_sample(tmp_path: Path) -> None:
    folder = write_latents(tmp_path / "latents")
    shards = Shards(folder)
    content = bytearray((folder / "latents-00000.tar").read_bytes())
    offset = int(shards.index.at[2, "offset"])
    content[offset + 3] ^= 4
    (folder / "latents-00000.tar").write_bytes(content)
    with pytest.raises(ContractError, match=rf"sample clip-002: tar header at offset {offset} is damaged"):
        Shards(folder).read(2, ("latents",))
    (folder / "latents-00001.tar").unlink()
    with pytest.raises(ContractError, match=r"latents-00001\.tar: named in manifest\.json but missing"):
        Shards(folder).read(6, ("latents",))


def test_an_index_of_another_length_than_the_manifest_is_refused(tmp_path: Path) -> None:
    folder = write_latents(tmp_path / "latents")
    manifest = json.loads((folder / "manifest.json").read_text()) | {"num_samples": 13}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ContractError, match=r"12 rows, but manifest\.json counts 13"):
        Shards(folder)


# ---- batches ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return Shards(write_latents(tmp_path_factory.mktemp("batches") / "latents", num_samples=23))


@given(seed=st.integers(0, 5), step=st.integers(0, 40), batch_size=st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_a_batch_is_a_function_of_seed_and_step_and_of_no_history(
    shards: Shards, seed: int, step: int, batch_size: int
) -> None:
    fresh, used = (Batches(shards, "train", ("prompt",), batch_size, seed) for _ in range(2))
    for earlier in range(step):
        used.keys(earlier)
    assert fresh.keys(step) == used.keys(step) == used.read(step, 0, batch_size)["key"]


@given(batch_size=st.integers(1, 30), epochs=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_every_epoch_shows_every_training_sample_once(shards: Shards, batch_size: int, epochs: int) -> None:
    batches = Batches(shards, "train", ("prompt",), batch_size, seed=1)
    size = len(batches.rows)
    stream = [key for step in range(-(-epochs * size // batch_size)) for key in batches.keys(step)]
    orders = [stream[epoch * size : (epoch + 1) * size] for epoch in range(epochs)]
    names = set(shards.index.loc[shards.index["split"] == "train", "key"])
    assert all(set(order) == names and len(order) == size for order in orders)
    assert len({tuple(order) for order in orders}) == epochs


def test_processes_read_parts_of_one_global_order(shards: Shards) -> None:
    batches = Batches(shards, "train", ALL, batch_size=8, seed=0)
    whole = batches.read(5, 0, 8)
    parts = [batches.read(5, start, start + 4) for start in (0, 4)]
    assert whole["key"] == parts[0]["key"] + parts[1]["key"]
    assert torch.equal(whole["latents"], torch.cat([part["latents"] for part in parts]))


def test_a_batch_is_collated_as_the_contract_says(shards: Shards) -> None:
    classes = {key: number for number, key in enumerate(shards.index["key"])}
    batch = Batches(shards, "train", ALL, 6, seed=0, classes=classes).read(0, 0, 6)
    assert batch["latents"].shape == (6, 2, 2, 3, 3) and batch["latents"].dtype == torch.float32
    assert batch["actions"].shape == (6, 5, 6)
    assert batch["prompt_embeds"].shape == (6, 3, 3) and batch["prompt_mask"].dtype == torch.bool
    lengths = [len(shards.read(classes[key], ("prompt_embeds",))["prompt_embeds"]) for key in batch["key"]]
    assert batch["prompt_mask"].sum(1).tolist() == lengths
    assert not batch["prompt_embeds"][~batch["prompt_mask"]].any()
    assert batch["pseudo_class"].tolist() == [classes[key] for key in batch["key"]]
    assert all(isinstance(prompt, str) for prompt in batch["prompt"])


def test_what_a_batch_cannot_hold_is_said_at_once(shards: Shards) -> None:
    with pytest.raises(ContractError, match="no field depth"):
        Batches(shards, "train", ("depth",), 4, 0)
    with pytest.raises(ContractError, match="no split test; there are"):
        Batches(shards, "test", ("latents",), 4, 0)
    with pytest.raises(ContractError, match="17 samples have no pseudo_class, first clip-001"):
        Batches(shards, "train", ("latents",), 4, 0, classes={"clip-000": 1})


def test_collate_keeps_the_order_of_samples() -> None:
    batch = collate([{"prompt": name} for name in "cab"])
    assert batch == {"prompt": ["c", "a", "b"]}


def test_a_folder_may_be_read_as_if_it_held_some_splits_alone(tmp_path: Path) -> None:
    folder = write_latents(tmp_path / "latents")
    whole, train = Shards(folder), Shards(folder, ("train",))
    assert len(train) == 9 and train.keys(range(9)) == whole.keys(whole.rows("train"))
    assert (train.load(train.rows("train"), "latents") == whole.load(whole.rows("train"), "latents")).all()
    with pytest.raises(ContractError, match="no split validation; there are train"):
        train.rows("validation")


@pytest.mark.parametrize(
    ("edit", "where"),
    [
        (lambda one: one["shards"].update({"../a.tar": next(iter(one["shards"].values()))}), "shards"),
        (lambda one: one["shards"].update({"/etc/a.tar": next(iter(one["shards"].values()))}), "shards"),
        (lambda one: next(iter(one["shards"].values())).update(sha256="../../" + "a" * 58), "sha256"),
        (lambda one: one["files"].update({"text_encoder/../../x": "a" * 64}), "files"),
        (lambda one: one["files"].update({".hidden": "a" * 64}), "files"),
        (lambda one: one["files"].update({"index.parquet": "no digest"}), "files"),
    ],
)
def test_names_and_digests_of_a_manifest_that_would_lead_elsewhere_are_refused(
    tmp_path: Path, edit: Callable[[Any], None], where: str
) -> None:
    folder = write_latents(tmp_path / "latents")
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ContractError, match=rf"manifest.json: .*{where}"):
        Shards(folder)


@pytest.mark.parametrize(("column", "value"), [("shard", "../x.tar"), ("offset", -512), ("size", 1 << 40), ("size", 0)])
def test_an_index_that_leads_out_of_its_shards_is_refused(tmp_path: Path, column: str, value: Any) -> None:
    folder = write_latents(tmp_path / "latents")
    index = pd.read_parquet(folder / "index.parquet")
    index.loc[3, column] = value
    index.to_parquet(folder / "index.parquet")
    with pytest.raises(ContractError, match=r"sample clip-003: bytes .* are in no shard of manifest.json"):
        Shards(folder)
