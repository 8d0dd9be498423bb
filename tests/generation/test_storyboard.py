"""Keyframes from pictures and from videos with holes: where they stand, and what is refused in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.chain import carried
from pipelines.data.video import read_clip, write_mp4
from pipelines.generation import refine as command
from pipelines.generation import storyboard
from pipelines.generation.drifting import refine as stage
from pipelines.models.autoencoder import StackedAutoencoder
from pipelines.stage import StageError, digest
from tests.generation.test_generate import write_text_encoder
from tests.generation.toy import CHANNELS, refining, write_classes, write_encoder, write_gates, write_latents


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storyboard")
    torch.manual_seed(0)
    StackedAutoencoder(frames=4, patch=1, width=8, latent_channels=CHANNELS, blocks=1).save_pretrained(folder / "vae")
    latents = write_latents(folder / "latents", 24, autoencoder=digest(folder / "vae"))
    write_text_encoder(latents / "text_encoder")
    encoder, classes = write_encoder(folder / "mae", latents), write_classes(folder / "classes", latents, 24)
    places = {"out": folder / "refiner", "metrics": folder / "m.json", "plots": folder / "plots"}
    stage.train(refining(3), latents, encoder, classes, write_gates(folder / "gates"), **places)
    colours = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), dtype=np.uint8)
    for name, pixels in {"a": colours[0], "b": colours[1], "wide": colours[2][:16]}.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "text.png").write_text("no picture")
    write_mp4(folder / "clip.mp4", colours, 8.0)
    return folder


def run(world: Path, *words: str, out: str = "out.mp4") -> int:
    places = {"--checkpoint": "refiner", "--latents": "latents", "--autoencoder": "vae", "--out": out}
    given = [word for flag, place in places.items() for word in (flag, str(world / place))]
    changed = [
        str(world / word) if word.startswith(("a.", "b.", "wide.", "text.", "clip.")) else word for word in words
    ]
    return command.main([*given, *changed])


def test_pictures_become_a_clip_and_the_words_say_how(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(world, "--keyframes", "a.png@0", "b.png@8", "--prompt", "red square") == 0
    assert "9 frames, latent frames given: 0 2" in capsys.readouterr().out
    refined = read_clip(world / "out.mp4")
    assert refined.shape == (9, 32, 32, 3)
    content, now = carried(world / "out.mp4")
    assert content["nodes"][now]["inputs"]["checkpoint"]["digest"] == digest(world / "refiner")
    assert run(world, "--keyframes", "a.png@0", "b.png@8", "--interpolate", out="plain.mp4") == 0
    plain = read_clip(world / "plain.mp4")
    assert np.abs(refined[0].astype(int) - plain[0]).mean() < 3, "a keyframe was changed"
    assert run(world, "--keyframes", "b.png@12", "a.png@0", "--num-frames", "13", "--size", "48x32") == 0
    assert read_clip(world / "out.mp4").shape == (13, 48, 32, 3)


def test_a_video_with_holes_is_filled_in(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(world, "--video", "clip.mp4", "--missing", "2", "4-4") == 0
    assert "latent frames given: 0 2" in capsys.readouterr().out


REFUSED = {
    (
        "--keyframes",
        "a.png@0",
        "b.png@9",
    ): "b.png@9 lies outside the clip, whose frames are 0 to 8; ask for --num-frames 13",
    ("--keyframes", "a.png@3", "b.png@3"): "are two pictures for frame 3; keep one",
    ("--keyframes", "a.png@5", "b.png@8"): "both stand for the latent frame of frames 5 to 8; keep one",
    ("--keyframes", "a.png@0", "wide.png@8"): "wide.png@8 is 16x32 (height x width); make them one size",
    ("--keyframes", "text.png@0"): "text.png: cannot be read as a picture",
    ("--keyframes", "a.png"): "write PICTURE@FRAME, such as first.png@0",
    ("--keyframes", "a.png@0", "--missing", "3"): "--missing: belongs to --video",
    ("--keyframes", "a.png@0", "--num-frames", "10"): "10 frames, but this autoencoder takes 1 mod 4",
    ("--keyframes", "a.png@0", "--size", "30x32"): "--size 30x32: height must be a multiple of 16",
    ("--keyframes", "a.png@0", "--prompt", "violet"): "knows none of the words of 'violet'",
    ("--video", "clip.mp4"): "no frame is missing",
    ("--video", "clip.mp4", "--missing", "0-8"): "all 9 frames are missing",
    ("--video", "clip.mp4", "--missing", "0", "3", "5"): "none is there as a whole",
    ("--video", "clip.mp4", "--missing", "3-20"): "--missing 3-20: the video has frames 0 to 8",
    ("--video", "clip.mp4", "--missing", "few"): "--missing few: write frames and ranges of frames",
    ("--video", "text.png", "--missing", "3"): "--video ",
}


@pytest.mark.parametrize("words", REFUSED, ids=lambda words: " ".join(words))
def test_bad_input_is_one_line(world: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert run(world, *words) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and REFUSED[words] in said[0] and said[0].startswith("refine: ")


def test_a_picture_is_read_as_training_reads_pictures(tmp_path: Path) -> None:
    """Sixteen-bit greys are scaled, not cut off at white; what is transparent is black; EXIF turns it upright."""
    levels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(storyboard.pixels(tmp_path / "deep.png"), np.repeat(levels[..., None], 3, 2))
    clear = np.full((3, 4, 4), 200, np.uint8)
    clear[..., 3] = [0, 0, 255, 255]
    Image.fromarray(clear).save(tmp_path / "clear.png")
    shown = storyboard.pixels(tmp_path / "clear.png")
    assert not shown[:, :2].any() and (shown[:, 2:] == 200).all()
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / "turned.jpg", exif=turned)
    assert storyboard.pixels(tmp_path / "turned.jpg").shape == (4, 3, 3)


def test_a_damaged_checkpoint_is_one_line_with_its_folder(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stated = json.loads((world / "refiner/generator.json").read_text())
    unknown = {**stated, "filling": {**stated["filling"], "mode": "wavelet"}}
    damaged = {
        "generator.json": [b"{", b"\xff\xfe", b"[]", json.dumps(unknown).encode()],
        "ema/refiner.safetensors": [b"junk"],
        "ema/diffusion_pytorch_model.safetensors": [b"", None],
        "ema/config.json": [b"{"],
    }
    for name, contents in damaged.items():
        for number, content in enumerate(contents):
            folder = tmp_path / f"{name.replace('/', '-')}-{number}"
            shutil.copytree(world / "refiner", folder)
            (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
            assert run(world, "--keyframes", "a.png@0", "--checkpoint", str(folder)) == 2
            said = capsys.readouterr().err.strip().splitlines()
            assert len(said) == 1 and str(folder) in said[0] and "fetch or train it again" in said[0]


@pytest.mark.parametrize("seed", ["-1", "9" * 20, "1.5", "x"])
def test_a_seed_that_no_generator_takes_is_refused(world: Path, capsys: pytest.CaptureFixture[str], seed: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(world, "--keyframes", "a.png@0", "--seed", seed)
    assert f"{seed!r} is not a whole number from 0 to 2^63 - 1" in capsys.readouterr().err


def test_a_refiner_of_another_autoencoder_is_refused(world: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    StackedAutoencoder(frames=4, patch=1, width=8, latent_channels=CHANNELS, blocks=1).save_pretrained(tmp_path / "vae")
    latents = write_latents(tmp_path / "latents", autoencoder=digest(tmp_path / "vae"))
    given = ["--checkpoint", world / "refiner", "--latents", latents, "--autoencoder", tmp_path / "vae"]
    words = [*map(str, given), "--keyframes", f"{world / 'a.png'}@0", "--out", str(tmp_path / "x.mp4")]
    with pytest.raises(StageError, match="trained on latents of autoencoder toy"):
        command.write_clip(command.arguments(words))


def test_a_picture_is_held_over_its_latent_frame_and_a_hole_shows_its_nearest_frame() -> None:
    frames = {place: np.full((2, 2, 3), place, np.uint8) for place in (0, 6)}
    given = storyboard.Given(frames, {0: "a", 6: "b"}, None, whole_groups=False)
    assert storyboard.latent_places(given, 9, 4) == [0, 2]
    shown = (storyboard.held(given, 9, 4, (2, 2))[0, 0, :, 0, 0] + 1) * 127.5
    assert shown.round().int().tolist() == [0, 0, 0, 0, 6, 6, 6, 6, 6]
