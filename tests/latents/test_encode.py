"""The stage latent_shards: the contract kept, bytes a function of content, refusals before work."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines import stage
from pipelines.data.batches import Batches
from pipelines.data.catalog import read_catalog
from pipelines.data.contract import Manifest, require_autoencoder
from pipelines.data.shards import Shards
from pipelines.data.verify import verify
from pipelines.data.video import read_clip
from pipelines.latents import stock
from pipelines.latents.autoencoder import train
from pipelines.latents.clips import as_video
from pipelines.latents.encode import encode
from pipelines.latents.plan import prompt_hash
from pipelines.models.autoencoder import load_autoencoder
from pipelines.processes import descendants
from pipelines.starting import free_port
from tests.latents.toy import NUM_FRAMES, autoencoder_params, shards_params, write_clips


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder of a few steps."""
    folder = tmp_path_factory.mktemp("autoencoder")
    train(autoencoder_params(), write_clips(folder / "clips"), folder / "out", folder / "m.json", folder / "plots")
    return folder / "out"


def encoded(folder: Path, checkpoint: Path, clips: Path | None = None, samples_per_shard: int = 3) -> Shards:
    clips = clips or write_clips(folder / "clips")
    encode(shards_params(samples_per_shard), clips, checkpoint, folder / "latents", folder / "m.json", folder / "plots")
    return Shards(folder / "latents")


@pytest.mark.costly
def test_shards_hold_what_the_contract_says(tmp_path: Path, checkpoint: Path) -> None:
    shards = encoded(tmp_path, checkpoint)
    manifest = shards.manifest
    assert manifest.fields["latents"].shape == (4, 2, 2, 2) and manifest.fields["latents"].axes == "C T H W"
    assert manifest.fields["prompt_embeds"].shape == (None, 16)
    assert manifest.fields["actions"].shape == (NUM_FRAMES, 6)
    assert manifest.actions is not None and manifest.actions.names == ("W", "A", "S", "D", "mouse_dx", "mouse_dy")
    assert manifest.actions.kinds == ("key",) * 4 + ("mouse",) * 2 and manifest.actions.offset == 1
    assert manifest.splits == {"train": 6, "validation": 2} and manifest.frame_rate == 8.0
    assert [facts.num_samples for facts in manifest.shards.values()] == [3, 3, 2]
    columns = (
        "key split shard offset size content_hash prompt_hash source start_seconds end_seconds prompt factor_color"
    )
    assert set(columns.split()) <= set(shards.index.columns)
    require_autoencoder(manifest, checkpoint)
    assert list(verify(shards.folder)) == []
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert (metrics["clips_encoded"], metrics["prompts_embedded"]) == (8, 2)  # each prompt once
    assert (tmp_path / "plots/latents.png").stat().st_size > 10_000


def test_stored_latents_are_those_of_the_autoencoder(tmp_path: Path, checkpoint: Path) -> None:
    shards = encoded(tmp_path, checkpoint)
    catalog = read_catalog(tmp_path / "clips").set_index("key")
    autoencoder = load_autoencoder(checkpoint)
    for row, key in enumerate(shards.index["key"]):
        video = as_video(read_clip(tmp_path / "clips" / catalog.at[key, "file"]))[None]
        found = torch.from_numpy(shards.read(row, ("latents",))["latents"].astype(np.float32))
        assert torch.allclose(found, autoencoder.encode(video)[0], atol=5e-3)
        assert shards.index.at[row, "split"] == catalog.at[key, "split"]
        assert shards.index.at[row, "prompt_hash"] == prompt_hash(catalog.at[key, "caption"])
        actions = shards.read(row, ("actions",))["actions"]
        assert np.array_equal(actions, np.stack(catalog.at[key, "actions"]))
    train_latents = shards.load(shards.rows("train"), "latents").astype(np.float32)
    assert np.allclose(train_latents.mean((0, 2, 3, 4)), 0, atol=0.02)
    assert np.allclose(train_latents.std((0, 2, 3, 4)), 1, atol=0.02)


def test_equal_clips_give_equal_bytes_in_whatever_order_they_are_listed(tmp_path: Path, checkpoint: Path) -> None:
    first = encoded(tmp_path / "a", checkpoint, write_clips(tmp_path / "ordered", range(8)))
    second = encoded(tmp_path / "b", checkpoint, write_clips(tmp_path / "shuffled", [5, 2, 7, 0, 1, 6, 3, 4]))
    for path in sorted(first.folder.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (second.folder / path.relative_to(first.folder)).read_bytes(), path.name


def test_a_sample_does_not_depend_on_its_neighbours(tmp_path: Path, checkpoint: Path) -> None:
    many = encoded(tmp_path / "many", checkpoint)
    few = encoded(tmp_path / "few", checkpoint, write_clips(tmp_path / "clips", [6, 3]), samples_per_shard=8)
    for row, key in enumerate(few.index["key"]):
        there = int(np.flatnonzero(many.index["key"] == key)[0])
        for field in ("latents", "prompt_embeds"):
            assert few.read(row, (field,))[field].tobytes() == many.read(there, (field,))[field].tobytes()


def test_training_reads_what_was_encoded(tmp_path: Path, checkpoint: Path) -> None:
    shards = encoded(tmp_path, checkpoint)
    batch = Batches(shards, "train", ("latents", "prompt_embeds", "actions"), 4, seed=0).read(0, 0, 4)
    assert batch["latents"].shape == (4, 4, 2, 2, 2)
    assert batch["prompt_embeds"].shape == (4, 6, 16) and batch["prompt_mask"].all()


def test_clips_without_actions_are_encoded_without_that_field(tmp_path: Path, checkpoint: Path) -> None:
    shards = encoded(tmp_path, checkpoint, write_clips(tmp_path / "clips", actions=None))
    assert set(shards.manifest.fields) == {"latents", "prompt_embeds", "prompt"}


@pytest.mark.costly
def test_an_autoencoder_whose_gate_failed_is_refused_and_earlier_latents_stay(tmp_path: Path, checkpoint: Path) -> None:
    shards = encoded(tmp_path, checkpoint)
    before = Manifest.read(shards.folder)
    bad = tmp_path / "bad"
    clips = tmp_path / "clips"
    train(autoencoder_params(min_psnr=99.0), clips, bad, tmp_path / "bad.json", tmp_path / "plots")
    with pytest.raises(stage.StageError, match=r"bad: gate psnr failed: .* is not >= 99 \(dB on held-out clips\)"):
        encode(shards_params(), clips, bad, shards.folder, tmp_path / "m.json", tmp_path / "plots")
    assert Manifest.read(shards.folder).model_dump() == before.model_dump()
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize("place", [-1, 12])  # in the numbers, in the header
def test_changed_weights_of_an_autoencoder_are_noticed(tmp_path: Path, checkpoint: Path, place: int) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[place] ^= 64
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(stage.StageError, match=r"model\.safetensors: not the weights that checkpoint\.json records"):
        encoded(tmp_path, copy)


def two_processes(script: Path, text: str, paths: list[Path]) -> subprocess.Popen[bytes]:
    """Start a script as two gloo processes in a session of their own."""
    script.write_text(text)
    launcher = ["torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", f"--master-port={free_port()}"]
    command = [sys.executable, "-m", *launcher, str(script), *map(str, paths)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)


SCRIPT = """
import sys
import time
from pathlib import Path
from pipelines.latents import encode as encoding
from tests.latents.toy import shards_params

{before}
if __name__ == "__main__":
    encoding.encode(shards_params({per_shard}), *map(Path, sys.argv[1:]))
"""
SLOWLY = """
import time
real = encoding.write_shard
def write_shard(path, samples):
    found = real(path, samples)
    time.sleep(1.0)
    return found
encoding.write_shard = write_shard
"""


@pytest.mark.slow
def test_two_processes_write_the_bytes_that_one_writes(tmp_path: Path, checkpoint: Path) -> None:
    alone = encoded(tmp_path, checkpoint)
    paths = [tmp_path / "clips", checkpoint, tmp_path / "two", tmp_path / "two.json", tmp_path / "plots"]
    processes = two_processes(tmp_path / "encode.py", SCRIPT.format(before="", per_shard=3), paths)
    try:
        assert processes.wait(timeout=150) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(processes.pid, signal.SIGKILL)
    assert (tmp_path / "two/manifest.json").read_bytes() == (alone.folder / "manifest.json").read_bytes()
    assert list(verify(tmp_path / "two")) == []
    assert json.loads((tmp_path / "two.json").read_text())["clips_encoded"] == 8


@pytest.mark.slow
def test_killed_processes_leave_whole_shards_that_the_next_run_does_not_encode_again(
    tmp_path: Path, checkpoint: Path
) -> None:
    whole = encoded(tmp_path / "whole", checkpoint, write_clips(tmp_path / "clips"), samples_per_shard=1)
    paths = [tmp_path / "clips", checkpoint, tmp_path / "latents", tmp_path / "m.json", tmp_path / "plots"]
    processes = two_processes(tmp_path / "encode.py", SCRIPT.format(before=SLOWLY, per_shard=1), paths)
    unfinished = tmp_path / ".work/latents/shards"
    try:
        until = time.monotonic() + 150
        while len(list(unfinished.glob("*.json"))) < 3 and processes.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        for pid in [*descendants(processes.pid), processes.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        processes.wait()
    finished = [path for path in unfinished.glob("*.tar") if stock.read_record(path) is not None]
    assert 3 <= len(finished) < 8 and not (tmp_path / "latents").exists()
    encode(shards_params(1), *paths)
    assert json.loads((tmp_path / "m.json").read_text())["clips_encoded"] == 8 - len(finished)
    for path in whole.folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "latents" / path.relative_to(whole.folder)).read_bytes(), path.name
