"""Only the new clips: what is encoded again after a change, counted; the rest keeps its very files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pipelines import stage
from pipelines.code.stages import identity
from pipelines.data.batches import Batches
from pipelines.data.catalog import read_catalog, write_catalog
from pipelines.data.shards import Shards
from pipelines.data.verify import verify
from pipelines.latents import encode as encoding
from pipelines.latents import plan as planning
from pipelines.latents.autoencoder import train
from pipelines.latents.encode import encode
from pipelines.latents.params import LatentShardsParams
from pipelines.latents.recipes import SHAPES_EMBEDS, SHAPES_LATENTS
from pipelines.models.stacked_autoencoder import StackedAutoencoder
from pipelines.training.checkpoint import write_record
from tests.latents.toy import autoencoder_params, shards_params, write_clips

COUNTERS = ("clips_encoded", "clips_reused", "prompts_embedded", "prompts_reused", "shards_written", "shards_reused")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder of a few steps."""
    folder = tmp_path_factory.mktemp("autoencoder")
    train(autoencoder_params(), write_clips(folder / "clips"), folder / "out", folder / "m.json", folder / "plots")
    return folder / "out"


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here looks at them, and they cost more than the rest."""
    monkeypatch.setattr(encoding.pictures, "draw_latents", lambda *_: None)


def run(folder: Path, checkpoint: Path, params: LatentShardsParams | None = None, out: str = "latents") -> list[int]:
    """Encode ``folder/clips``; the counters in the order of :data:`COUNTERS`."""
    encode(params or shards_params(), folder / "clips", checkpoint, folder / out, folder / "m.json", folder / "plots")
    assert list(verify(folder / out)) == []
    metrics = json.loads((folder / "m.json").read_text())
    return [metrics[name] for name in COUNTERS]


def change(folder: Path, key: str, **values: Any) -> None:
    """Edit one row of the catalog."""
    rows = read_catalog(folder / "clips").to_dict("records")
    for row in rows:
        row["actions"] = np.stack(row["actions"]).tolist()
    write_catalog(folder / "clips", [row | values if row["key"] == key else row for row in rows])


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every shard: the same file, not an equal one."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder / "latents").glob("*.tar")}


def reclip(folder: Path, numbers: range | list[int], **changes: Any) -> None:
    shutil.rmtree(folder / "clips")
    write_clips(folder / "clips", numbers, **changes)


def test_new_clips_are_encoded_and_no_old_shard_is_touched(tmp_path: Path, checkpoint: Path) -> None:
    write_clips(tmp_path / "clips")
    assert run(tmp_path, checkpoint) == [8, 0, 2, 0, 3, 0]
    before = files(tmp_path)
    reclip(tmp_path, range(10))
    assert run(tmp_path, checkpoint) == [2, 8, 0, 2, 1, 3]  # their prompts are known, too
    assert {name: facts for name, facts in files(tmp_path).items() if name in before} == before
    assert len(Shards(tmp_path / "latents")) == 10


def test_nothing_new_encodes_nothing(tmp_path: Path, checkpoint: Path) -> None:
    write_clips(tmp_path / "clips")
    run(tmp_path, checkpoint)
    before = {path: path.read_bytes() for path in (tmp_path / "latents").rglob("*") if path.is_file()}
    assert run(tmp_path, checkpoint) == [0, 8, 0, 2, 0, 3]
    assert {path: path.read_bytes() for path in (tmp_path / "latents").rglob("*") if path.is_file()} == before


def test_the_index_does_not_tell_in_how_many_runs_it_was_made(tmp_path: Path, checkpoint: Path) -> None:
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    write_clips(grown / "clips", [5, 2, 0])
    run(grown, checkpoint)
    reclip(grown, range(8))
    run(grown, checkpoint)
    write_clips(whole / "clips")
    run(whole, checkpoint)
    first, second = Shards(grown / "latents"), Shards(whole / "latents")
    places = ["shard", "offset"]
    pd.testing.assert_frame_equal(first.index.drop(columns=places), second.index.drop(columns=places))
    for row in range(8):
        one, other = (shards.read(row, ("latents", "prompt_embeds")) for shards in (first, second))
        assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    assert Batches(first, "train", ("prompt",), 4, 0).keys(3) == Batches(second, "train", ("prompt",), 4, 0).keys(3)


def test_an_edited_caption_embeds_one_prompt_and_encodes_no_clip(tmp_path: Path, checkpoint: Path) -> None:
    write_clips(tmp_path / "clips")
    run(tmp_path, checkpoint)
    before = Shards(tmp_path / "latents")
    old = before.read(4, ("latents",))["latents"].tobytes()
    change(tmp_path, "clip-4", caption="a purple square waits")
    assert run(tmp_path, checkpoint) == [0, 8, 1, 2, 1, 3]
    after = Shards(tmp_path / "latents")
    assert after.read(4, ("prompt",))["prompt"] == "a purple square waits"
    assert after.read(4, ("latents",))["latents"].tobytes() == old


def test_a_rename_and_another_split_encode_nothing_and_write_no_shard(tmp_path: Path, checkpoint: Path) -> None:
    write_clips(tmp_path / "clips")
    run(tmp_path, checkpoint)
    change(tmp_path, "clip-2", source="elsewhere.mp4", split="validation")
    assert run(tmp_path, checkpoint) == [0, 8, 0, 2, 0, 3]
    row = Shards(tmp_path / "latents").index.set_index("key").loc["clip-2"]
    assert (row["source"], row["split"]) == ("elsewhere.mp4", "validation")


def test_a_removed_clip_leaves_the_index_and_training_and_comes_back_without_work(
    tmp_path: Path, checkpoint: Path
) -> None:
    write_clips(tmp_path / "clips")
    run(tmp_path, checkpoint)
    shutil.copytree(tmp_path / "latents", tmp_path / "first")
    reclip(tmp_path, [0, 1, 2, 3, 5, 6, 7])
    assert run(tmp_path, checkpoint) == [0, 7, 0, 2, 0, 3]
    shards = Shards(tmp_path / "latents")
    assert "clip-4" not in set(shards.index["key"])
    batches = Batches(shards, "train", ("prompt",), 5, seed=0)
    assert "clip-4" not in {key for step in range(4) for key in batches.keys(step)}
    assert shards.manifest.num_samples == 7 and sum(one.num_samples for one in shards.manifest.shards.values()) == 8


def test_a_shard_that_is_mostly_dead_is_dropped_and_its_living_samples_are_copied(
    tmp_path: Path, checkpoint: Path
) -> None:
    write_clips(tmp_path / "clips")
    run(tmp_path, checkpoint)
    reclip(tmp_path, [0, 3, 4, 5, 6, 7])
    assert run(tmp_path, checkpoint) == [0, 6, 0, 2, 1, 2]
    assert sorted(files(tmp_path)) == ["latents-00001.tar", "latents-00002.tar", "latents-00003.tar"]


def test_many_small_shards_are_put_together(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "FREE_SHARDS", 0)
    params = shards_params(samples_per_shard=4)
    for count in range(1, 4):
        reclip(tmp_path, range(count)) if count > 1 else write_clips(tmp_path / "clips", range(1))
        run(tmp_path, checkpoint, params)
    assert len(files(tmp_path)) == 1 and len(Shards(tmp_path / "latents")) == 3


@pytest.mark.costly
@pytest.mark.parametrize("what", ["autoencoder", "precision", "size", "code"])
def test_what_shapes_latents_encodes_all_again(
    tmp_path: Path, checkpoint: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clips(tmp_path / "clips", range(4))
    run(tmp_path, checkpoint)
    params = shards_params()
    if what == "autoencoder":
        train(autoencoder_params(4), tmp_path / "clips", tmp_path / "other", tmp_path / "o.json", tmp_path / "plots")
        checkpoint = tmp_path / "other"
    elif what == "precision":
        params = params.model_copy(update={"precision": "bf16"})
    elif what == "size":  # a clip of another size has another content hash
        rows = read_catalog(tmp_path / "clips")
        for key in rows["key"]:
            change(tmp_path, key, content_hash=f"resized {key}")
    else:
        monkeypatch.setattr("pipelines.latents.recipes._code", lambda modules: "another encoder")
    assert run(tmp_path, checkpoint, params)[:2] == [4, 0]


def test_another_decoder_encodes_nothing_and_the_manifest_names_the_new_autoencoder(
    tmp_path: Path, checkpoint: Path
) -> None:
    write_clips(tmp_path / "clips")
    run(tmp_path, checkpoint)
    before, other = files(tmp_path), tmp_path / "other"
    network = StackedAutoencoder.from_pretrained(checkpoint)
    network.decoder.out.weight.data += 0.1
    network.linear_out.bias.data += 0.1  # type: ignore[union-attr]
    network.save_pretrained(other)
    record = json.loads((checkpoint / "checkpoint.json").read_text())
    write_record(other, {name: value for name, value in record.items() if name != "weights"})
    assert run(tmp_path, other) == [0, 8, 0, 2, 0, 3]
    assert files(tmp_path) == before
    assert Shards(tmp_path / "latents").manifest.autoencoder.digest == stage.digest(other) != stage.digest(checkpoint)
    network.encoder.out.bias.data += 0.1  # type: ignore[union-attr]
    network.save_pretrained(other)
    write_record(other, {name: value for name, value in record.items() if name != "weights"})
    assert run(tmp_path, other)[0] == 8


def test_another_text_encoder_embeds_all_prompts_and_encodes_no_clip(tmp_path: Path, checkpoint: Path) -> None:
    write_clips(tmp_path / "clips")
    run(tmp_path, checkpoint)
    params = shards_params()
    params = params.model_copy(update={"text": params.text.model_copy(update={"seed": 1})})
    assert run(tmp_path, checkpoint, params) == [0, 8, 2, 0, 3, 0]


def test_other_sizes_of_shards_copy_and_encode_nothing(tmp_path: Path, checkpoint: Path) -> None:
    write_clips(tmp_path / "clips")
    run(tmp_path, checkpoint)
    assert run(tmp_path, checkpoint, shards_params(samples_per_shard=4)) == [0, 8, 0, 2, 2, 0]


def test_what_encodes_is_what_is_reached_from_the_file_of_a_clip_to_its_latents() -> None:
    latents, embeds = set(identity(SHAPES_LATENTS).parts), set(identity(SHAPES_EMBEDS).parts)
    assert {
        "data/video.py read_frames",
        "models/autoencoder_traits.py posterior",
        "latents/clips.py to_unit_range",
    } <= latents
    assert {"latents/text.py TextEncoder", "latents/text.py pretrained"} <= embeds
    assert not {
        label for label in latents | embeds if label.startswith(("latents/quality", "latents/plan", "latents/stock"))
    }


# ---- after DVC deleted the output ------------------------------------------------------------------------------------


def into_cache(folder: Path, name: str) -> None:
    """What DVC does: the output in its cache, lines in lock file and run cache; before the next run, it is deleted."""
    cache, listed = folder / ".dvc/cache/files/md5", []
    for path in sorted((folder / name).rglob("*")):
        if path.is_file():
            md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            (cache / md5[:2]).mkdir(parents=True, exist_ok=True)
            if not (cache / md5[:2] / md5[2:]).exists():
                os.link(path, cache / md5[:2] / md5[2:])
            listed.append({"md5": md5, "relpath": path.relative_to(folder / name).as_posix()})
    text = json.dumps(listed)
    md5 = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    (cache / md5[:2]).mkdir(parents=True, exist_ok=True)
    (cache / md5[:2] / f"{md5[2:]}.dir").write_text(text)
    entry = {"cmd": "x", "outs": [{"path": name, "md5": f"{md5}.dir"}]}
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"latent_shards": entry}}))
    runs = folder / ".dvc/cache/runs/aa/aa"
    runs.mkdir(parents=True, exist_ok=True)
    (runs / md5).write_text(yaml.safe_dump(entry))
    shutil.rmtree(folder / name)


@pytest.fixture
def here(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's own folder, as paths in dvc.lock see it, after a first run."""
    monkeypatch.chdir(tmp_path)
    write_clips(Path("clips"))
    run(Path(), checkpoint)
    return Path()


def test_shards_are_linked_from_dvcs_cache_after_it_deleted_the_output(here: Path, checkpoint: Path) -> None:
    before = files(here)
    into_cache(here, "latents")
    reclip(here, range(9))
    assert run(here, checkpoint) == [1, 8, 0, 2, 1, 3]
    assert {name: facts for name, facts in files(here).items() if name in before} == before  # the same inodes: no copy


def test_going_back_to_an_earlier_autoencoder_finds_its_shards_in_the_run_cache(here: Path, checkpoint: Path) -> None:
    into_cache(here, "latents")
    bf16 = shards_params().model_copy(update={"precision": "bf16"})
    assert run(here, checkpoint, bf16)[0] == 8
    into_cache(here, "latents")
    reclip(here, range(9))
    assert run(here, checkpoint)[:2] == [1, 8]


def test_a_copy_of_a_damaged_sample_is_refused_with_the_remedy(tmp_path: Path, checkpoint: Path) -> None:
    write_clips(tmp_path / "clips")
    run(tmp_path, checkpoint)
    shards = Shards(tmp_path / "latents")
    path = tmp_path / "latents" / shards.index.at[4, "shard"]
    content = bytearray(path.read_bytes())
    content[int(shards.index.at[4, "offset"]) + 512 + 130] ^= 1
    path.write_bytes(content)
    change(tmp_path, "clip-4", caption="another")
    with pytest.raises(stage.StageError, match=r"clip-4\.latents\.npy is not what was written; delete this file"):
        encode(shards_params(), tmp_path / "clips", checkpoint, tmp_path / "latents", tmp_path / "m", tmp_path / "p")
    path.unlink()
    assert run(tmp_path, checkpoint)[0] == 3  # those of the deleted shard


# ---- killed ----------------------------------------------------------------------------------------------------------


def test_a_run_that_ends_in_the_middle_goes_on_and_gives_the_bytes_of_one_that_does_not(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clips(tmp_path / "clips")
    assert run(tmp_path, checkpoint, out="whole")[0] == 8
    real, written = encoding.write_shard, []

    def dies(path: Path, samples: Any) -> Any:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        return real(path, samples)

    monkeypatch.setattr(encoding, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, checkpoint)
    assert not (tmp_path / "latents").exists()
    monkeypatch.setattr(encoding, "write_shard", real)
    assert run(tmp_path, checkpoint) == [2, 6, 0, 2, 1, 2]
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "latents" / path.relative_to(tmp_path / "whole")).read_bytes()
    assert not (tmp_path / ".work/latents/shards").exists()


# ---- told beforehand -------------------------------------------------------------------------------------------------


def test_the_forecast_counts_what_the_run_then_encodes(tmp_path: Path, checkpoint: Path) -> None:
    write_clips(tmp_path / "clips")
    run(tmp_path, checkpoint)
    reclip(tmp_path, range(10))
    work = tmp_path / ".work/latents"
    (work / planning.SPEED).write_text('{"clips_per_second": 0.5}')
    paths = tmp_path / "clips", checkpoint, tmp_path / "latents", work
    assert planning.forecast(shards_params(), *paths) == (
        "2 of 10 clips to encode, 0 prompts to embed, about 4.0 s at 0.5 clips/s; 3 shards stay, 1 to write"
    )
    assert run(tmp_path, checkpoint)[0] == 2
    assert planning.forecast(shards_params(), *paths).startswith(
        "0 of 10 clips to encode, 0 prompts to embed; 4 shards"
    )


def test_a_forecast_says_what_stages_that_run_before_may_change() -> None:
    stages = {
        "raw": {"outs": ["data/clips"]},
        "vae": {"outs": ["checkpoints/vae"]},
        "mae": {"outs": ["checkpoints/mae"]},
    }
    paths = {"clips": Path("data/clips"), "autoencoder": Path("checkpoints/vae")}
    assert planning.reservations(stages, paths, []) == planning.reservations(stages, paths, ["mae"]) == ""
    both = planning.reservations(stages, paths, ["raw", "vae"])
    assert both.startswith("; counted of the clips that are there now, raw runs before")
    assert both.endswith("; all of them where vae, which runs before, makes another autoencoder")
