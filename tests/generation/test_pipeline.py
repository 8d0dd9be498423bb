"""One folder that holds all that sampling needs, and one object that loads it, as seed A's guide shows."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.chain import beside, carried, carry
from pipelines.data.video import read_clip
from pipelines.generation import export, generate
from pipelines.generation.pipeline import FlowPipeline
from pipelines.models.autoencoder import StackedAutoencoder
from pipelines.stage import StageError, digest, write_json
from pipelines.training.checkpoint import weights
from tests.generation.test_generate import write_text_encoder
from tests.generation.test_stages import World
from tests.generation.toy import CHANNELS, FRAMES, anchored, write_classes, write_latents


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Both stages trained, with text encoder and autoencoder, and the export of the second."""
    folder = tmp_path_factory.mktemp("pipeline")
    made = World(folder)
    torch.manual_seed(0)
    StackedAutoencoder(frames=4, patch=1, width=8, latent_channels=CHANNELS, blocks=1).save_pretrained(folder / "vae")
    write_json(folder / "vae/checkpoint.json", {"stage": "autoencoder", "weights": weights(folder / "vae")})
    (folder / "vae/validation").mkdir()
    (folder / "vae/validation/step-000002.mp4").write_bytes(b"clips of somebody")
    carry(folder / "vae", {"stage": "autoencoder", "path": "checkpoints/autoencoder"}, {}, {})
    made.latents = write_latents(folder / "real", autoencoder=digest(folder / "vae"))
    write_text_encoder(made.latents / "text_encoder")
    made.classes = write_classes(folder / "real_classes", made.latents)
    identity = made.anchored(anchored(), "identity")
    made.anchored(anchored("motion"), "motion", identity)
    words = ["--latents", str(made.latents), "--autoencoder", str(folder / "vae")]
    place = str(folder / "checkpoints/motion")
    assert export.main(["--checkpoint", place, "--out", str(folder / "single"), *words]) == 0
    return made


def test_a_single_folder_loads_and_makes_a_video(world, tmp_path, monkeypatch):
    """Moved elsewhere, with nothing of the project around it."""
    monkeypatch.chdir(tmp_path)
    pipe = FlowPipeline.from_pretrained(shutil.copytree(world.folder / "single", tmp_path / "moved"))
    video = pipe(prompt="red square", num_frames=1 + 4 * FRAMES, height=32, width=48, num_inference_steps=3)
    assert video.shape == (1 + 4 * FRAMES, 32, 48, 3) and video.dtype == np.uint8
    one, other = pipe(["red square", "square"], seed=3)
    assert one.shape == other.shape == (1 + 4 * (FRAMES - 1), 32, 32, 3)
    alone = pipe("square", seed=4)
    assert np.abs(alone.astype(int) - other).max() <= 1, "a clip depends on its own seed"
    assert np.abs(pipe("square", seed=4, guidance_scale=500.0).astype(int) - alone).max() > 1
    code = (tmp_path / "moved/README.md").read_text().split("```python")[1].split("```")[0]
    names: dict = {"folder": tmp_path / "moved"}
    exec(compile(code.replace("a prompt", "red square"), "card", "exec"), names)
    assert np.array_equal(names["video"], pipe("red square"))


def test_clips_of_the_data_stay_behind_and_the_chain_does_not_miss_them(world):
    inside = world.folder / "single/autoencoder"
    assert not (inside / "validation").exists() and carried(inside)[0]["files"] == beside(inside)


def test_the_single_folder_gives_the_samples_of_the_checkpoint(world, tmp_path):
    clips = []
    around = ["--latents", str(world.latents), "--autoencoder", str(world.folder / "vae")]
    for place, words in (("checkpoints/motion", around), ("single", [])):
        out = tmp_path / f"{len(clips)}.mp4"
        given = ["--checkpoint", str(world.folder / place), "--prompt", "red square", "--out", str(out)]
        assert generate.main([*given, *words]) == 0
        clips.append(read_clip(out))
    assert np.array_equal(*clips)


def test_a_checkpoint_in_a_project_loads_without_an_export(world, tmp_path, monkeypatch):
    shutil.copytree(world.folder / "checkpoints", tmp_path / "checkpoints")
    shutil.copytree(world.folder / "vae", tmp_path / "checkpoints/autoencoder")
    shutil.copytree(world.latents, tmp_path / "data/latents")
    monkeypatch.chdir(tmp_path)
    single = FlowPipeline.from_pretrained(world.folder / "single")
    assert np.array_equal(FlowPipeline.from_pretrained("checkpoints/motion")("square"), single("square"))


def test_mistakes_are_told(world, tmp_path):
    pipe = FlowPipeline.from_pretrained(world.folder / "single")
    with pytest.raises(StageError, match="height and width: give both"):
        pipe("square", height=32)
    with pytest.raises(StageError, match="knows none of the words"):
        pipe("xyz")
    broken = Path(shutil.copytree(world.folder / "single", tmp_path / "broken"))
    weights = next((broken / "denoiser").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(StageError, match="not the weights that"):
        FlowPipeline.from_pretrained(broken)
    with pytest.raises(StageError, match=r"no checkpoint\.json"):
        FlowPipeline.from_pretrained(tmp_path)
    facts = json.loads((world.folder / "single/checkpoint.json").read_text())
    assert facts["stage"] and facts["parent"], "the folder still says where it came from"
