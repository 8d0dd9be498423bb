"""From a prompt to an mp4, with the real parts at toy size."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from pipelines.data.video import probe, read_clip
from pipelines.generation import generate, rectified_flow
from pipelines.generation.clip_maker import ClipMaker, Wanted, read_image
from pipelines.models.autoencoder import StackedAutoencoder, load_autoencoder
from pipelines.provenance import lineage
from pipelines.stage import StageError, digest
from pipelines.training.flow_generator import shared_out
from tests.generation.toy import CHANNELS, DIM, FRAMES, SMALL, rectified, write_latents


def write_text_encoder(folder: Path) -> None:
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "red": 3, "square": 4}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    config = T5Config(vocab_size=5, d_model=DIM, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate")
    torch.manual_seed(0)
    vae = StackedAutoencoder(frames=4, patch=1, width=8, latent_channels=CHANNELS, blocks=1)
    for layer in (vae.linear_out, vae.decoder.out):
        layer.weight.data *= 0.05  # what random weights draw is noise that no codec holds; fainter, it survives
        layer.bias.data.zero_()
    vae.save_pretrained(folder / "vae")
    latents = write_latents(folder / "latents", autoencoder=digest(folder / "vae"))
    write_text_encoder(latents / "text_encoder")
    places = {"out": folder / "flow", "metrics": folder / "flow.json", "plots": folder / "plots"}
    rectified_flow.train(rectified(steps=1, first_frame_share=0.5), latents, **places)
    shutil.copytree(folder / "flow", folder / "text_only")
    facts = json.loads((folder / "flow" / "generator.json").read_text())
    facts["phases"][0]["first_frame"], facts["takes"] = False, []
    (folder / "text_only" / "generator.json").write_text(json.dumps(facts))
    return folder


def run(world: Path, *words: str, autoencoder: str = "vae", flow: str = "flow") -> int:
    places = ["--checkpoint", world / flow, "--latents", world / "latents", "--autoencoder", world / autoencoder]
    return generate.main([*map(str, places), *words])


def test_a_prompt_becomes_an_mp4_that_knows_its_prompt_and_seed(world, capsys):
    out = world / "one.mp4"
    assert run(world, "--prompt", "red square", "--out", str(out), "--seed", "3", "--steps", "1") == 0
    assert read_clip(out).shape == (1 + 4 * (FRAMES - 1), 32, 32, 3)
    assert probe(out).frame_rate == pytest.approx(8.0)
    assert "one.mp4: red square" in capsys.readouterr().out
    with av.open(str(out)) as container:
        assert container.metadata["title"] == "red square"
        assert container.metadata["comment"].startswith(
            "seed 3, 1 euler steps with guidance 1.5, 8 frames/s, h264, flow "
        )
    found = lineage(out.rename(world / "sent.mp4"))
    own = found.nodes[found.artifact]
    assert found.now == found.artifact and own["params"]["prompt"] == "red square"
    assert own["inputs"]["checkpoint"]["digest"] == digest(world / "flow")
    run_of_it = found.runs[found.artifact]
    assert run_of_it["hardware"]["device"] == "cpu" and run_of_it["began_at"] <= run_of_it["ended_at"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("text", ["red\u2028square\n\n$square$\r\n", "red \u0085 square\r $square$"])
def test_prompts_from_a_file_are_those_of_the_command_line(tmp_path, encoding, text):
    """Byte order marks are no words, and only line feeds and returns end a prompt."""
    (tmp_path / "prompts.txt").write_bytes(text.encode(encoding))
    given = generate.arguments(["--prompts", str(tmp_path / "prompts.txt"), "--out", "x", "--checkpoint", "y"])
    words = ["--out", "x", "--checkpoint", "y"]
    alone = [generate.arguments(["--prompt", one, *words]) for one in ("red square", "$square$")]
    assert generate.read_prompts(given) == [prompt for one in alone for prompt in generate.read_prompts(one)]


def test_a_file_of_prompts_that_is_no_text_is_told(world, tmp_path, capsys):
    (tmp_path / "p.txt").write_bytes("Kätzchen".encode("cp1252"))
    for path, words in ((tmp_path / "p.txt", "save it as UTF-8"), (tmp_path / "none.txt", "No such file")):
        assert run(world, "--prompts", str(path), "--out", str(tmp_path / "out")) != 0
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and words in said[0] and str(path) in said[0]


def test_a_file_of_prompts_becomes_a_folder_and_each_clip_is_the_one_of_its_seed(world):
    prompts = world / "prompts.txt"
    prompts.write_text("\ufeffred\n\nred square\nred$$\n")
    assert run(world, "--prompts", str(prompts), "--out", str(world / "many"), "--guidance", "2.0") == 0
    assert (
        run(world, "--prompt", "red square", "--out", str(world / "alone.mp4"), "--seed", "1", "--guidance", "2.0") == 0
    )
    assert len(list((world / "many").iterdir())) == 4
    with Image.open(world / "many/contact_sheet.png") as sheet:
        assert sheet.width > 1000
    difference = read_clip(world / "many/001.mp4").astype(int) - read_clip(world / "alone.mp4").astype(int)
    assert abs(difference).max() <= 2


def test_a_clip_starts_from_a_picture_at_the_wanted_size(world):
    """What the autoencoder makes of the picture is the clip's first frame."""
    pixels = np.linspace(0, 255, 90 * 60 * 3).reshape(90, 60, 3).astype(np.uint8)
    Image.fromarray(pixels).save(world / "first.png")
    out = world / "longer.mp4"
    size = ["--num-frames", "13", "--size", "48x32"]
    assert run(world, "--prompt", "red", "--out", str(out), "--image", str(world / "first.png"), *size) == 0
    made = read_clip(out)
    assert made.shape == (13, 48, 32, 3)
    autoencoder = load_autoencoder(world / "vae")
    with torch.no_grad():
        image = read_image(world / "first.png", 48, 32)
        seen = autoencoder.decode(autoencoder.encode(image))[0, :, 0].permute(1, 2, 0)
    assert np.abs((seen.numpy() + 1) * 127.5 - made[0]).mean() < 8


def test_a_negative_prompt_no_guidance_and_another_sampler_are_other_clips(world):
    """In latents: a flow of one update moves pixels by less than a codec does."""
    made = []
    for words in ([], ["--negative", "square"], ["--guidance", "1"], ["--sampler", "heun"]):
        places = ["--checkpoint", str(world / "flow"), "--prompt", "red", "--out", "clip.mp4", "--steps", "2"]
        given = generate.arguments([*places, *words])
        maker = ClipMaker(generate.load(given), world / "latents", world / "vae")
        made += list(maker.latents_of(["red"], [0], Wanted(negative=given.negative), 1))
    assert len({one.numpy().tobytes() for one in made}) == 4


def test_a_place_that_cannot_be_written_is_told_before_anything_is_sampled(world, capsys):
    (world / "a file").write_text("")
    for out, told in (
        ("clip.gif", "end the name in .mp4"),
        ("clip.png", "a png is one frame, and this clip has 9"),
        ("a file/clip.mp4", "a file"),
    ):
        assert run(world, "--prompt", "red", "--out", str(world / out)) == 2
        said = capsys.readouterr()
        assert told in said.err and "evaluation" not in said.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--num-frames", "12"], "a clip has 12 frames, but this autoencoder takes 1 mod 4; cut clips of 9 frames"),
        (
            ["--size", "40x32"],
            "height must be a multiple of 16 and width of 16, for this autoencoder and denoiser; near",
        ),
        (["--image", "nowhere.png"], "nowhere.png: cannot be read as a picture"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_sampled(world, capsys, words, told):
    assert run(world, "--prompt", "red", "--out", str(world / "x.mp4"), *words) == 2
    assert told in capsys.readouterr().err and not (world / "x.mp4").exists()


def test_a_flow_that_never_saw_a_first_frame_takes_no_picture(world, capsys):
    assert run(world, "--prompt", "red", "--out", str(world / "x.mp4"), "--image", "any.png", flow="text_only") == 2
    assert "was not trained to start from a picture; train rectified_flow with a first_frame_share" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("words", [["--steps", "0"], ["--guidance", "0.5"], ["--sampler", "ddim"], ["--size", "64"]])
def test_impossible_options_are_told_by_name(world, capsys, words):
    with pytest.raises(SystemExit, match="2"):
        run(world, "--prompt", "red", "--out", "x.mp4", *words)
    assert f"argument {words[0]}" in capsys.readouterr().err


def test_mistakes_are_told_in_a_line(world, capsys):
    assert run(world, "--prompt", "blue", "--out", str(world / "x.mp4")) == 2
    assert "knows none of the words of 'blue'" in capsys.readouterr().err
    assert run(world, "--prompt", "red red red red", "--out", str(world / "x.mp4")) == 2
    assert "a prompt has 5 tokens, this denoiser takes 4" in capsys.readouterr().err
    torch.manual_seed(1)
    StackedAutoencoder(frames=4, patch=1, width=8, latent_channels=CHANNELS, blocks=1).save_pretrained(world / "other")
    assert run(world, "--prompt", "red", "--out", str(world / "x.mp4"), autoencoder="other") == 2
    assert "made by autoencoder toy" in capsys.readouterr().err
    assert not (world / "x.mp4").exists()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(0, 200))
def test_steps_are_shared_out_whole(weights: list[int], more: int) -> None:
    """All of them, at least one to a phase, none further than one from its exact share."""
    total = len(weights) + more
    parts = shared_out(total, weights)
    assert sum(parts) == total and min(parts) >= 1
    exact = [1 + more * weight / sum(weights) for weight in weights]
    assert all(abs(part - share) < 1 for part, share in zip(parts, exact, strict=True))


# ---- validation prompts in words ----------------------------------------------------------------------------------


def trained_showing(world: Path, place: Path, prompts: list[str]) -> Path:
    places = {"out": place / "flow", "metrics": place / "flow.json", "plots": place / "plots"}
    params = rectified(steps=2, validation={**SMALL["validation"], "prompts": prompts})
    rectified_flow.train(params, world / "latents", **places)
    return places["out"] / "validation"


@pytest.mark.costly
def test_validation_shows_prompts_of_the_users_own(world, tmp_path):
    shown = trained_showing(world, tmp_path, ["red  square", "square"])
    assert [path.suffix for path in sorted(shown.iterdir())] == [".mp4", ".png"]
    with av.open(str(next(shown.glob("*.mp4")))) as container:
        assert "red square" in json.dumps(dict(container.metadata))


@pytest.mark.parametrize(
    ("prompt", "told"), [("xyz", "knows none of the words"), ("red red red red", r"5 tokens, this denoiser takes\s+4")]
)
def test_a_validation_prompt_that_cannot_be_told_stops_before_training(world, tmp_path, prompt, told):
    with pytest.raises(StageError, match=told):
        trained_showing(world, tmp_path, ["red square", prompt])
    assert not (tmp_path / "flow").exists()
