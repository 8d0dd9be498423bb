"""From a prompt to an mp4, with the real parts at toy size."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from pipelines.data.video import probe, read_clip
from pipelines.generation import generate, rectified_flow
from pipelines.models.autoencoder import StackedAutoencoder
from pipelines.stage import digest
from tests.generation.toy import CHANNELS, DIM, FRAMES, rectified, write_latents


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
    StackedAutoencoder(frames=4, patch=1, width=8, latent_channels=CHANNELS, blocks=1).save_pretrained(folder / "vae")
    latents = write_latents(folder / "latents", autoencoder=digest(folder / "vae"))
    write_text_encoder(latents / "text_encoder")
    places = {"out": folder / "flow", "metrics": folder / "flow.json", "plots": folder / "plots"}
    rectified_flow.train(rectified(steps=1), latents, **places)
    return folder


def run(world: Path, *words: str, autoencoder: str = "vae") -> int:
    places = ["--checkpoint", world / "flow", "--latents", world / "latents", "--autoencoder", world / autoencoder]
    return generate.main([*map(str, places), *words])


def test_a_prompt_becomes_an_mp4_that_knows_its_prompt_and_seed(world, capsys):
    out = world / "one.mp4"
    assert run(world, "--prompt", "red square", "--out", str(out), "--seed", "3", "--steps", "1") == 0
    assert read_clip(out).shape == (1 + 4 * (FRAMES - 1), 32, 32, 3)
    assert probe(out).frame_rate == pytest.approx(8.0)
    assert b"red square" in out.read_bytes() and b"seed 3" in out.read_bytes()
    assert "one.mp4: red square" in capsys.readouterr().out


def test_a_file_of_prompts_becomes_a_folder_and_each_clip_is_the_one_of_its_seed(world):
    prompts = world / "prompts.txt"
    prompts.write_text("red\n\nred square\n")
    assert run(world, "--prompts", str(prompts), "--out", str(world / "many"), "--guidance", "2.0") == 0
    assert (
        run(world, "--prompt", "red square", "--out", str(world / "alone.mp4"), "--seed", "1", "--guidance", "2.0") == 0
    )
    difference = read_clip(world / "many/001.mp4").astype(int) - read_clip(world / "alone.mp4").astype(int)
    assert abs(difference).max() <= 2


def test_mistakes_are_told_in_a_line(world, capsys):
    assert run(world, "--prompt", "blue", "--out", str(world / "x.mp4")) == 2
    assert "knows none of the words of 'blue'" in capsys.readouterr().err
    assert run(world, "--prompt", "red red red red", "--out", str(world / "x.mp4")) == 2
    assert "a prompt has 5 tokens, this denoiser takes 3" in capsys.readouterr().err
    torch.manual_seed(1)
    StackedAutoencoder(frames=4, patch=1, width=8, latent_channels=CHANNELS, blocks=1).save_pretrained(world / "other")
    assert run(world, "--prompt", "red", "--out", str(world / "x.mp4"), autoencoder="other") == 2
    assert "made by autoencoder toy" in capsys.readouterr().err
    assert not (world / "x.mp4").exists()
