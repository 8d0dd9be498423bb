"""Seed D's second half: from pictures with a table of captions to a picture of a prompt; pictures beside clips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.data.video import read_clip
from pipelines.generation import generate, rectified_flow
from pipelines.latents import adversarial
from pipelines.latents.autoencoder import train as train_autoencoder
from pipelines.latents.clips import Clips, FrameGroups
from pipelines.latents.encode import encode
from pipelines.models.denoiser import VideoDenoiser, averaged
from pipelines.stage import StageError
from tests.footage.footage import CLIP, CUTTING, folder, footage, run, video
from tests.generation.toy import rectified
from tests.latents.test_adversarial import params as game
from tests.latents.toy import autoencoder_params, shards_params

DENOISER = {"heads": 2, "head_dim": 12, "layers": 1, "feed_forward": 32, "patch": [1, 2, 2], "text_length": 8}
COLOURS = {"red": (210, 40, 40), "blue": (40, 60, 210)}


def write_pictures(place: Path, count: int = 16) -> Path:
    """Squares of two colours, and captions.txt as the guide has it: name, tab, caption."""
    place.mkdir(parents=True)
    lines = []
    for number in range(count):
        name = list(COLOURS)[number % 2]
        pixels = np.full((32, 32, 3), 60, np.uint8)
        top, left = np.random.default_rng(number).integers(0, 16, 2)
        pixels[top : top + 16, left : left + 16] = COLOURS[name]
        Image.fromarray(pixels).save(place / f"{number:02d}.png")
        lines.append(f"{number:02d}.png\ta {name} square\n")
    (place.parent / "captions.txt").write_text("".join(lines))
    return place


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, their latents, and a flow on them."""
    place = tmp_path_factory.mktemp("pictures")
    (place / "source").mkdir()
    write_pictures(place / "source/in")
    block = {"media": "images", "captions": str(place / "source/captions.txt"), "prompt_prefix": "style plain"}
    one = {**CLIP, "num_frames": 1}
    run(footage("folder", clip=one, path=str(place / "source/in"), max_rejected_share=0.0, **block), place)
    vae = place / "vae"
    train_autoencoder(autoencoder_params(steps=30), place / "clips", vae, place / "vae.json", place / "plots")
    encode(shards_params(), place / "clips", vae, place / "latents", place / "shards.json", place / "plots")
    places = {"out": place / "flow", "metrics": place / "flow.json", "plots": place / "plots"}
    params = rectified(steps=6, denoiser=DENOISER)
    training = params.training.model_copy(update={"precision": "fp32"})  # as above: one precision per process
    rectified_flow.train(params.model_copy(update={"training": training}), place / "latents", **places)
    return place


def test_the_captions_of_the_table_reach_the_latents_with_their_prefix(world: Path) -> None:
    catalog = Clips(world / "clips").catalog
    assert set(catalog["caption"]) == {"style plain. a red square", "style plain. a blue square"}
    assert set(catalog["num_frames"]) == {1}
    manifest = json.loads((world / "latents/manifest.json").read_text())
    assert manifest["fields"]["latents"]["shape"] == [4, 1, 4, 4]


def test_a_prompt_becomes_a_picture(world: Path) -> None:
    words = ["--checkpoint", world / "flow", "--latents", world / "latents", "--autoencoder", world / "vae"]
    out = world / "one.mp4"
    prompt = ["--prompt", "style plain. a red square", "--out", str(out), "--steps", "2"]
    assert generate.main([*map(str, words), *prompt]) == 0
    assert read_clip(out).shape == (1, 32, 32, 3)
    picture = world / "one.png"
    assert generate.main([*map(str, words), *prompt[:2], "--out", str(picture), "--steps", "2"]) == 0
    with Image.open(picture) as shown:
        assert shown.size == (32, 32) and shown.info["Title"] == "style plain. a red square"
        assert shown.info["Comment"].startswith("seed 0, 2 euler steps")
    (world / "prompts.txt").write_text("a red square\na blue square\n")
    many = ["--prompts", str(world / "prompts.txt"), "--out", str(world / "many"), "--steps", "1"]
    assert generate.main([*map(str, words), *many]) == 0
    assert {path.name for path in (world / "many").iterdir()} == {"000.png", "001.png", "contact_sheet.png"}


@pytest.mark.costly
def test_the_game_on_pictures_ends_with_what_could_not_be_measured_named(world: Path, tmp_path: Path) -> None:
    changes = {"freeze": [], "discriminator": {"dimensions": 2, "width": 4, "levels": 2, "condition": "latents"}}
    section = game(steps=2, **changes)
    adversarial.train(
        section, world / "clips", world / "vae", tmp_path / "out", tmp_path / "m.json", tmp_path / "plots"
    )
    gates = {gate["name"]: gate for gate in json.loads((tmp_path / "m.json").read_text())["gates"]}
    assert gates["flicker"]["verdict"] == "warn" and "value" not in gates["flicker"]
    assert "gate flicker: not available" in (tmp_path / "out/README.md").read_text()


def test_pictures_and_clips_train_in_one_run(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 8)
    video(tmp_path / "in/film.mp4")
    for path in (tmp_path / "in").iterdir():
        path.with_suffix(".txt").write_text("a thing")
    buckets = {"fold": 4, "sizes": [[1, 32, 32], [5, 32, 32]]}
    catalog, _ = run(folder(tmp_path / "in", media="both", cutting={**CUTTING, "buckets": buckets}), tmp_path)
    assert set(catalog["num_frames"]) == {1, 5}
    clips = Clips(tmp_path / "clips")
    groups = FrameGroups(clips, list(range(len(catalog))), 4, batch_size=4, seed=0)
    lengths = set()
    for step in range(6):
        lengths |= set(catalog.set_index("key").loc[groups.keys(step), "num_frames"])
        shown = groups.read(step, 0, 4)["video"]
        assert shown.shape == (4, 3, 4, 32, 32) and bool(torch.isfinite(shown).all())
    assert lengths == {1, 5}


def flow(place: Path, latents: Path, out: str, steps: int, **changes: object) -> Path:
    params = rectified(steps=steps, denoiser=DENOISER)
    training = params.training.model_copy(update={"precision": "fp32"})
    init = changes.pop("init", None)
    section = params.model_copy(update={"training": training, **changes})
    places = {"out": place / out, "metrics": place / f"{out}.json", "plots": place / f"{out}-plots"}
    rectified_flow.train(section, latents, **places, init=init)  # type: ignore[arg-type]
    return place / out


@pytest.mark.costly
def test_a_later_step_goes_on_from_the_flow_before_it_also_at_another_size(world: Path, tmp_path: Path) -> None:
    run(
        footage(
            "folder",
            clip={**CLIP, "num_frames": 1, "height": 48, "width": 48},
            path=str(world / "source/in"),
            media="images",
            captions=str(world / "source/captions.txt"),
            prompt_prefix="style plain",
        ),
        tmp_path,
    )
    encode(shards_params(), tmp_path / "clips", world / "vae", tmp_path / "l", tmp_path / "s.json", tmp_path / "plots")
    before = VideoDenoiser.from_pretrained(averaged(world / "flow")).state_dict()
    tuned = flow(tmp_path, tmp_path / "l", "tuned", 1, init=world / "flow")
    anew = flow(tmp_path, tmp_path / "l", "anew", 1)

    def distance(folder: Path) -> float:
        after = VideoDenoiser.from_pretrained(folder).state_dict()
        return sum(float((after[name] - before[name]).square().sum()) for name in before)

    assert 0 < distance(tuned) < 0.1 * distance(anew)
    record = json.loads((tuned / "checkpoint.json").read_text())
    assert record["parent"]["path"].endswith("flow")


def test_a_later_step_of_another_architecture_is_refused_with_the_key(world: Path, tmp_path: Path) -> None:
    other = rectified(denoiser={**DENOISER, "layers": 2}).denoiser
    with pytest.raises(StageError, match=r"denoiser.layers is 1 there and 2 here"):
        flow(tmp_path, world / "latents", "out", 1, init=world / "flow", denoiser=other)
