"""`reel audit`: one flipped bit anywhere is found and named; what is not recorded is said to be unknown."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines import run_facts
from pipelines.chain import carry
from pipelines.data import audit_dvc, audit_used
from pipelines.data.audit import artifacts, audit, main
from pipelines.data.audit_near import near_duplicates
from pipelines.data.audited import Item
from pipelines.data.contract import INDEX, MANIFEST, Manifest
from pipelines.stage import CHAIN, RUNS, StageError, file_digest, write_json
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
    carry(latents, {**NODE, "stage": "latent_shards", "path": "data/latents", "facts": {"samples": count}}, {}, {})
    checkpoint = tmp_path / "release/checkpoints/flow"
    checkpoint.mkdir(parents=True)
    (checkpoint / "net.safetensors").write_bytes(np.random.default_rng(0).bytes(500))
    weights = {"net.safetensors": file_digest(checkpoint / "net.safetensors")}
    write_json(checkpoint / "checkpoint.json", {"stage": "flow", "weights": weights, "seed": 0})
    (checkpoint / "README.md").write_text("# A card\n")
    carry(checkpoint, {**NODE, "stage": "flow", "path": "x"}, {"latents": latents}, {"latents": "data/latents"})
    return tmp_path / "release"


def uses(root: Path, clip: str) -> tuple[list[str], list[str]]:
    return audit_used.uses(root, artifacts(root), clip)


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
    ["checkpoints/flow/net.safetensors", "checkpoints/flow/checkpoint.json", "checkpoints/flow/README.md",
     f"checkpoints/flow/{RUNS}", "data/latents/latents-00001.tar", f"data/latents/{INDEX}",
     "data/latents/empty_prompt.npy"],
)  # fmt: skip
def test_a_flipped_bit_is_found_and_its_file_named(release: Path, name: str) -> None:
    run_facts.finish(release / "checkpoints/flow", {"status": "finished", "header": {}})
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
        assert ["split validation" in line for line in uses(release, clip)[0]] == [True], clip
    assert uses(release, "4711.mp4") == ([], []) and main([str(release), "--clip", "4711.mp4"]) == 0


def test_a_clip_is_known_by_a_path_of_the_askers_own_and_by_what_a_stored_file_says_of_itself(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [said] = uses(release, f"{tmp_path}/downloads/3.mp4")[0]
    assert "split validation" in said and "by its file name alone" in said
    assert len(uses(release, "elsewhere/clip-003.mp4")[0]) == 1
    (tmp_path / "damaged.mp4").write_bytes(b"\0\0\0\2moov")
    assert main([str(release), "--clip", str(tmp_path / "damaged.mp4")]) == 0
    assert "another encoding" in capsys.readouterr().out
    keys = [f"clip-{n:016x}" for n in range(len(pd.read_parquet(release / "data/latents" / INDEX)))]
    indexed(release / "data/latents", key=keys)
    moov = b"udta" + keys[5].encode() + b"\0"
    (tmp_path / "renamed.mp4").write_bytes(struct.pack(">I4s", 8 + len(moov), b"moov") + moov)
    assert [keys[5] in line for line in uses(release, str(tmp_path / "renamed.mp4"))[0]] == [True]


def test_a_plain_folder_that_something_was_made_from_is_verified_where_it_lies(release: Path) -> None:
    (release / "metrics").mkdir()
    write_json(release / "metrics/one.json", {"x": 1})
    report = release / "report"
    report.mkdir()
    (report / "report.html").write_text("<p>")
    carry(report, {**NODE, "stage": "report", "path": "report"}, {"m": release / "metrics"}, {"m": "metrics"})
    assert [item.verdict for item in audit(release) if item.path == "metrics"] == ["verified"]
    assert next(item for item in audit(release, quick=True) if item.path == "metrics").verdict == "unknown"
    write_json(release / "metrics/one.json", {"x": 2})
    assert [item.verdict for item in audit(release) if item.path == "metrics"] == ["unknown"]


def test_of_a_checkpoint_alone_the_project_around_it_answers_and_elsewhere_that_is_unknown(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = release / "checkpoints/flow"
    shutil.copytree(flow, tmp_path / "elsewhere")
    (release / "dvc.yaml").write_text("stages: {}\n")
    for clip, code in (("films/3.mp4", 1), ("4711.mp4", 0)):
        assert main([str(flow), "--clip", clip]) == code
    capsys.readouterr()
    assert main([str(tmp_path / "elsewhere"), "--clip", "films/3.mp4"]) == 3
    assert "unknown; data/latents" in capsys.readouterr().out
    indexed(release / "data/latents", source=["another"] * 12)  # other data than it was trained on
    assert main([str(flow), "--clip", "another"]) == 3


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


# ---- near-duplicates, licences -----------------------------------------------------------------------------------


def embedded(folder: Path, held: np.ndarray, train: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    np.save(folder / "embeddings.npy", np.concatenate([train, held]).astype(np.float32))
    keys = [f"train-{n}" for n in range(len(train))] + [f"held-{n}" for n in range(len(held))]
    splits = ["train"] * len(train) + ["test"] * len(held)
    pd.DataFrame({"key": keys, "split": splits}).to_parquet(folder / "assignments.parquet")
    carry(folder, {**NODE, "stage": "pseudo_classes", "path": "x"}, {}, {})
    return folder


def test_a_near_duplicate_in_train_is_found_and_others_are_not(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    train, held = generator.normal(size=(300, 12)), generator.normal(size=(40, 12))
    embedded(tmp_path / "sound", held, train)
    [item] = [item for item in audit(tmp_path / "sound") if item.path.endswith("near-duplicates")]
    assert item.verdict == "verified" and "0 of 40 held-out clips" in item.what
    held[7] = train[123] + generator.normal(size=12) * 0.02  # the same in another codec
    train[200] = train[123]  # twice in train: that must not hide it
    embedded(tmp_path / "leaking", held, train)
    one, of_all = bad(tmp_path / "leaking")
    assert one.path.endswith(": held-7") and "nearly train-" in one.what and "1 of 40" in of_all.what
    assert near_duplicates(tmp_path / "leaking")[1][0].twin in ("train-123", "train-200")
    [quick] = [item for item in audit(tmp_path / "leaking", quick=True) if "near-duplicates" in item.path]
    assert quick.verdict == "unknown"


@pytest.mark.parametrize("rows", [0, 2])
def test_embeddings_that_tell_nothing_are_said_to(tmp_path: Path, rows: int) -> None:
    embedded(tmp_path / "few", np.zeros((2, 3)), np.zeros((rows, 3)))
    [item] = [item for item in audit(tmp_path / "few") if item.path.endswith("near-duplicates")]
    assert item.verdict == "unknown" and f"{rows} training clips" in item.what
    (tmp_path / "few/embeddings.npy").write_bytes(b"no array")
    assert "cannot be read" in next(i.what for i in audit(tmp_path / "few") if i.path.endswith("near-duplicates"))


def test_licences_are_told_as_the_source_told_them(tmp_path: Path) -> None:
    told = ['{"license": "CC-BY-4.0"}', '{"Licence": "\\u001b[31mmine"}', '{"licence": ', None, '{"score": 1}']
    columns = {"key": list("abcde"), "source": ["x", "x", "y", "z", "z"], "metadata": told}
    pd.DataFrame(columns).to_parquet(tmp_path / "catalog.parquet")
    known, unknown = [item for item in audit(tmp_path) if item.path.endswith(": licences")]
    assert known.verdict == "recorded" and "3 sources" in known.what and "CC-BY-4.0 (1)" in known.what
    assert unknown.verdict == "unknown" and "3 clips" in unknown.what and "\x1b" not in str(known)


# ---- dvc ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that DVC itself has run: a folder of a clip and a catalog, and a file."""
    root = tmp_path_factory.mktemp("tracked")
    make = "mkdir -p data/clips && echo clip > data/clips/a.mp4 && cp rows.parquet data/clips/catalog.parquet"
    pd.DataFrame({"key": ["a"], "file": ["a.mp4"]}).to_parquet(root / "rows.parquet")
    stages = {"clips": {"cmd": make, "outs": ["data/clips"]}, "one": {"cmd": "echo 1 > one", "outs": ["one"]}}
    (root / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    for words in (["init", "--no-scm", "-q"], ["config", "cache.dir", "kept"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, check=True)
    return root


def test_a_project_is_held_against_dvc_lock_and_its_cache(tracked: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tracked, tmp_path / "copy", symlinks=True))
    whole = list(audit_dvc.audit(root))
    assert [(item.path, item.verdict) for item in whole] == [("data/clips", "verified"), ("one", "verified")]
    assert "2 of 2 files" in whole[0].what and "2 whole in the cache" in whole[0].what
    assert not [item for item in audit(root) if item.path.endswith(": clips")], "DVC knows the clips' bytes"
    (root / "data/clips/a.mp4").unlink()
    (root / "data/clips/a.mp4").write_text("clap\n")
    [item] = bad(root)
    assert item.path == "data/clips/a.mp4" and "MD5" in item.what
    (root / "one").unlink()
    assert ("one", "missing") in {(item.path, item.verdict) for item in bad(root)}


def test_a_flipped_bit_in_every_cache_object_is_found(tracked: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tracked, tmp_path / "copy", symlinks=True))
    objects = sorted(path for path in (root / "kept/files/md5").rglob("*") if path.is_file())
    assert len(objects) == 4, "a clip, a catalog, their list, a file"
    for path in objects:
        content = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        assert any(path.name in item.path for item in bad(root)), path
        path.write_bytes(content)


@pytest.mark.parametrize("key", ["md5", "size", "nfiles"])
def test_a_digit_of_dvc_lock_that_is_another_is_found(tracked: Path, tmp_path: Path, key: str) -> None:
    root = Path(shutil.copytree(tracked, tmp_path / "copy", symlinks=True))
    lines = (root / "dvc.lock").read_text().splitlines()
    places = [number for number, line in enumerate(lines) if line.strip().startswith(f"{key}: ")]
    assert places
    for number in places:
        stem, ending = (lines[number].removesuffix(".dir"), ".dir") if ".dir" in lines[number] else (lines[number], "")
        changed = f"{stem[:-1]}{'1' if stem[-1] != '1' else '2'}{ending}"
        (root / "dvc.lock").write_text("\n".join([*lines[:number], changed, *lines[number + 1 :]]))
        assert bad(root), changed
    shutil.rmtree(root / "kept")
    (root / "dvc.lock").write_text("\n".join(lines))
    assert not bad(root), "a folder's hash is known without DVC's list of its files"


def test_values_in_dvc_lock_that_a_result_was_not_made_with_are_named(tmp_path: Path) -> None:
    stage = {"cmd": "x", "params": {"params.yaml": {"flow": {"steps": 3, "of": {"rate": 0.5}}}}}
    stage |= {"outs": [{"path": "flow", "md5": "0" * 32 + ".dir"}]}
    (tmp_path / "dvc.lock").write_text(json.dumps({"stages": {"flow": stage}}))
    (tmp_path / "flow").mkdir()
    for steps, count in ((3, 0), (4, 1)):
        node = {"stage": "flow", "params": {"steps": steps, "of": {"rate": 0.5}}, "inputs": {}}
        (tmp_path / "flow/lineage.json").write_text(json.dumps({"artifact": "a", "nodes": {"a": node}}))
        named = [item for item in audit_dvc.audit(tmp_path) if item.path == "dvc.lock flow"]
        assert len([item for item in named if "flow.steps is 3, and 4 in" in item.what]) == count == len(named)


@pytest.mark.parametrize("lock", ["{", "stages: [1]", "stages: {a: {outs: [{path: ../x, md5: '0'}]}}"])
def test_a_damaged_dvc_lock_is_told_in_a_line(tmp_path: Path, lock: str) -> None:
    (tmp_path / "dvc.lock").write_text(lock)
    [item] = audit_dvc.audit(tmp_path)
    assert item.verdict == "does not match" and "\n" not in item.what
