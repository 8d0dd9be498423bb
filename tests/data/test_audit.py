"""`reel audit`: one flipped bit anywhere is found and named; what is not recorded is said to be unknown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.chain import carry
from pipelines.data.audit import Item, audit, main, uses
from pipelines.data.contract import INDEX, MANIFEST, Manifest
from pipelines.stage import CHAIN, StageError, file_digest, write_json
from tests.data.sample_shards import write_latents

NODE = {"params": {}, "code": "c" * 32, "environment": {}, "gates": []}


def indexed(latents: Path, **columns: list[str]) -> None:
    """Columns put into the index, and the manifest made to agree."""
    table = pd.read_parquet(latents / INDEX).assign(**columns)
    table.to_parquet(latents / INDEX)
    content = json.loads((latents / MANIFEST).read_text())
    content["files"][INDEX] = file_digest(latents / INDEX)
    write_json(latents / MANIFEST, content)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Latents, and a checkpoint that was trained on them, each with its chain."""
    latents = write_latents(tmp_path / "release/data/latents")
    count = len(pd.read_parquet(latents / INDEX))
    indexed(latents, content_hash=[f"{n:032x}" for n in range(count)], source=[f"films/{n}.mp4" for n in range(count)])
    carry(latents, {**NODE, "stage": "latent_shards", "path": "data/latents"}, {}, {})
    checkpoint = tmp_path / "release/checkpoints/flow"
    checkpoint.mkdir(parents=True)
    (checkpoint / "net.safetensors").write_bytes(np.random.default_rng(0).bytes(500))
    weights = {"net.safetensors": file_digest(checkpoint / "net.safetensors")}
    write_json(checkpoint / "checkpoint.json", {"stage": "flow", "weights": weights})
    carry(checkpoint, {**NODE, "stage": "flow", "path": "x"}, {"latents": latents}, {"latents": "data/latents"})
    return tmp_path / "release"


def bad(root: Path) -> list[Item]:
    return [item for item in audit(root) if item.verdict in ("missing", "does not match")]


def test_what_is_whole_is_verified_here_and_anywhere(release: Path, tmp_path: Path) -> None:
    moved = release.rename(tmp_path / "moved")
    items = list(audit(moved))
    assert {item.verdict for item in items} == {"verified"} and main([str(moved)]) == 0
    said = {str(item).split(":")[0].split()[1] for item in items}
    assert {"checkpoints/flow/net.safetensors", "data/latents/latents-00000.tar", "checkpoints/flow"} <= said
    shutil.rmtree(moved / "data")
    [item] = [item for item in audit(moved) if item.verdict != "verified"]
    assert item.verdict == "unknown" and item.path == "data/latents" and "which is not here" in item.what


@pytest.mark.parametrize(
    "name",
    ["checkpoints/flow/net.safetensors", "data/latents/latents-00001.tar", f"data/latents/{INDEX}",
     "data/latents/empty_prompt.npy"],
)  # fmt: skip
def test_a_flipped_bit_is_found_and_its_file_named(release: Path, name: str) -> None:
    generator, whole = np.random.default_rng(3), (release / name).read_bytes()
    for at in generator.integers(0, len(whole), 8).tolist():
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(generator.integers(8))
        (release / name).write_bytes(bytes(damaged))
        assert name in {item.path for item in bad(release)}, f"byte {at}"
    assert main([str(release)]) == 1


@pytest.mark.parametrize("name", ["checkpoints/flow/checkpoint.json", f"data/latents/{MANIFEST}"])
def test_a_record_that_is_edited_is_found(release: Path, name: str) -> None:
    """A digest in it that was changed together with what it is of, say."""
    content = json.loads((release / name).read_text())
    folder = (release / name).parent
    if "weights" in content:
        (folder / "net.safetensors").write_bytes(b"other")
        content["weights"]["net.safetensors"] = file_digest(folder / "net.safetensors")
    else:
        content["num_samples"] = content["num_samples"] + 0
        content["files"] = {**content["files"], "empty_prompt.npy": "0" * 64}
    write_json(release / name, content)
    shown = folder.relative_to(release).as_posix()
    assert shown in {item.path for item in bad(release)}, "it is not what its chain says was made"


def test_what_is_missing_or_damaged_is_told_without_a_traceback(release: Path) -> None:
    (release / "data/latents/latents-00000.tar").unlink()
    (release / "checkpoints/flow/net.safetensors").unlink()
    (release / "checkpoints/flow" / CHAIN).write_text("{")
    found = {(item.path, item.verdict) for item in bad(release)}
    assert ("data/latents/latents-00000.tar", "missing") in found
    assert ("checkpoints/flow/net.safetensors", "missing") in found
    assert (f"checkpoints/flow/{CHAIN}", "does not match") in found
    for name in ("checkpoints/flow/checkpoint.json", f"data/latents/{MANIFEST}"):
        (release / name).write_text("[]")
    assert ("checkpoints/flow/checkpoint.json", "does not match") in {(i.path, i.verdict) for i in bad(release)}


def test_a_clip_that_is_trained_on_and_held_out_is_found(release: Path) -> None:
    latents = release / "data/latents"
    table = pd.read_parquet(latents / INDEX)
    splits, contents = table["split"].tolist(), table["content_hash"].tolist()
    trained, held = splits.index("train"), splits.index("validation")
    contents[held] = contents[trained]
    indexed(latents, content_hash=contents)
    [item] = [item for item in bad(release) if item.path.endswith(": splits")]
    assert table["key"].tolist()[held] in item.what and "held out and in train" in item.what


def test_whether_a_clip_was_used_is_answered_by_key_hash_and_source(release: Path) -> None:
    for clip in ("clip-003", f"{3:032x}", "films/3.mp4", "3.mp4"):
        assert ["split validation" in line for line in uses(release, clip)] == [True], clip
    assert uses(release, "4711.mp4") == [] and main([str(release), "--clip", "4711.mp4"]) == 0


def test_quick_reads_no_shard_and_claims_nothing_of_them(release: Path) -> None:
    (release / "data/latents/latents-00001.tar").write_bytes(
        b"x" * Manifest.read(release / "data/latents").shards["latents-00001.tar"].size
    )
    items = {item.path: item for item in audit(release, quick=True)}
    assert items["data/latents/latents-00001.tar"].verdict == "unknown"
    assert items["checkpoints/flow/net.safetensors"].verdict == "unknown"


def test_a_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no checkpoint, data set or other artifact"):
        list(audit(tmp_path))
    assert main([str(tmp_path / "no such")]) == 3
