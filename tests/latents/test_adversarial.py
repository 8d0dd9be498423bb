"""The stage autoencoder_adversarial: what it changes, what it must not change, and that it goes on exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from PIL import Image
from pydantic import ValidationError

from pipelines.latents.adversarial import gates, train
from pipelines.latents.autoencoder import train as train_autoencoder
from pipelines.latents.params import AutoencoderAdversarialParams, PretrainedAutoencoderParams
from pipelines.models.autoencoder import load_autoencoder
from pipelines.params import ParamsError
from pipelines.training import checkpoint
from tests.latents.toy import autoencoder_params, losses, write_clips

GAME: dict[str, Any] = {
    "weight": 0.5,
    "warmup": {"shape": "linear", "start": 1, "steps": 2},
    "game": "hinge",
    "balance": {"most": 1.0},
    "r1": {"gamma": 1.0, "every": 2},
    "lecam": {"weight": 0.1, "decay": 0.9},
    "instance_noise": {"std": 0.1, "decay": 0.99},
}
CRITIC = {"dimensions": 3, "width": 4, "levels": 2, "condition": "latents"}


def params(steps: int = 4, **changes: Any) -> AutoencoderAdversarialParams:
    """Everything the game has, on a network of a few thousand weights; gates that let everything pass."""
    training = autoencoder_params(steps).training.model_dump(mode="json")
    per_network = {"discriminator": {name: training[name] for name in ("optimizer", "schedule")}}
    ema = {"decay": 0.5, "warmup_steps": 1}
    values = {
        "freeze": ["encoder"],
        "losses": losses(perceptual={"weight": 0.1, "warmup": None, "features": {"kind": "own_encoder"}}).model_dump(
            mode="json"
        ),
        "adversarial": GAME,
        "discriminator": CRITIC,
        "augmentation": None,
        "gates": {"max_psnr_fall": 99.0, "max_perceptual": 99.0, "max_flicker": 99.0},
        "training": {**training, "per_network": per_network, "ema": ema, "save_every": 2},
    }
    return AutoencoderAdversarialParams.model_validate(values | changes)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clips and a trained autoencoder."""
    place = tmp_path_factory.mktemp("parent")
    write_clips(place / "clips")
    train_autoencoder(
        autoencoder_params(steps=5), place / "clips", place / "autoencoder", place / "m.json", place / "plots"
    )
    return place


def run(parent: Path, place: Path, section: AutoencoderAdversarialParams) -> tuple[Path, dict[str, Any]]:
    train(section, parent / "clips", parent / "autoencoder", place / "out", place / "metrics.json", place / "plots")
    return place / "out", json.loads((place / "metrics.json").read_text())


def logged(out: Path) -> set[str]:
    """Names of everything that was logged while training."""
    return {name for line in (out / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)}


@pytest.mark.costly
def test_the_game_leaves_a_checkpoint_numbers_beside_the_parents_and_pictures(parent: Path, tmp_path: Path) -> None:
    out, metrics = run(parent, tmp_path, params())
    assert {"psnr", "ssim", "perceptual", "flicker", "feature_distance", "psnr_per_frame"} <= metrics.keys()
    assert metrics["before"].keys() >= {"psnr", "ssim", "perceptual", "flicker"}
    assert [gate["name"] for gate in metrics["gates"]] == ["psnr_fall", "perceptual", "flicker"]
    assert metrics["gates"][0]["value"] == pytest.approx(metrics["before"]["psnr"] - metrics["psnr"])
    assert {"loss/adversarial", "weight/adversarial", "loss/r1", "loss_disc", "loss_gen"} <= logged(out)
    record = checkpoint.read(out)
    assert record["parent"]["path"].endswith("autoencoder")
    for name in ("before_after.png", "validation.png", "training/training_overview.png"):
        with Image.open(tmp_path / "plots" / name) as picture:
            assert picture.width > 200 and picture.getextrema()[0] != (255, 255)


@pytest.mark.costly
def test_a_frozen_encoder_and_its_latents_stay_equal_to_the_bit(parent: Path, tmp_path: Path) -> None:
    out, _ = run(parent, tmp_path, params())
    before, after = load_autoencoder(parent / "autoencoder"), load_autoencoder(out)
    video = torch.rand(1, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(before.encode(video), after.encode(video))
    assert not torch.equal(before.decode(before.encode(video)), after.decode(after.encode(video)))
    names = {name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert names and all(name.startswith(("decoder", "linear_out")) for name in names)


@pytest.mark.costly
def test_latents_of_an_encoder_that_trained_are_normalised_anew(parent: Path, tmp_path: Path) -> None:
    from pipelines.latents.clips import Clips
    from pipelines.latents.quality import latent_statistics

    out, _ = run(parent, tmp_path, params(freeze=["decoder"], adversarial=GAME | {"balance": None}))
    clips = Clips(parent / "clips")
    mean, std = latent_statistics(load_autoencoder(out), clips, clips.rows("train"), torch.device("cpu"))
    assert torch.allclose(mean, torch.zeros(4), atol=1e-3) and torch.allclose(std, torch.ones(4), atol=1e-3)


@pytest.mark.costly
def test_a_stopped_game_goes_on_exactly(parent: Path, tmp_path: Path) -> None:
    def section(steps: int) -> AutoencoderAdversarialParams:
        return params(steps=4, training=params(steps=4).training.model_dump(mode="json") | {"steps": steps})

    whole, _ = run(parent, tmp_path / "whole", section(6))
    run(parent, tmp_path / "parts", section(2))
    parts, metrics = run(parent, tmp_path / "parts", section(6))
    assert metrics["resumes"] == 1
    for name in ("model.safetensors", "ema/model.safetensors"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name


@pytest.mark.costly
def test_without_an_adversary_other_losses_go_on(parent: Path, tmp_path: Path) -> None:
    alone = params().training.model_copy(update={"per_network": None}).model_dump(mode="json")
    section = params(adversarial=None, discriminator=None, training=alone)
    out, _ = run(parent, tmp_path, section)
    assert "loss/discriminator" not in logged(out) and "loss/perceptual" in logged(out)


@pytest.mark.costly
def test_a_pretrained_autoencoder_is_handed_on_as_it_is(parent: Path, tmp_path: Path) -> None:
    AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    ).save_pretrained(tmp_path / "vae")
    named = PretrainedAutoencoderParams(name=str(tmp_path / "vae"), revision=None, subfolder=None)
    place = tmp_path / "taken"
    train_autoencoder(
        autoencoder_params(pretrained=named), parent / "clips", place, tmp_path / "m.json", tmp_path / "plots"
    )
    train(params(), parent / "clips", place, tmp_path / "out", tmp_path / "metrics.json", tmp_path / "plots")
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    assert torch.equal(load_autoencoder(tmp_path / "out").encode(video), load_autoencoder(place).encode(video))
    assert json.loads((tmp_path / "metrics.json").read_text())["ssim"] <= 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"freeze": ["encoder", "decoder"]}, "nothing is left to train; one of encoder, decoder, or none"),
        ({"discriminator": CRITIC | {"levels": 5}}, r"5 halvings leave nothing of clips of 16 pixels; at most 4"),
        ({"freeze": ["decoder"]}, "balances gradients in the decoder, which is frozen"),
        (
            {
                "losses": losses(kl={"weight": 1.0, "warmup": None, "reduce": "mean", "free_bits": 0.0}).model_dump(
                    mode="json"
                )
            },
            "has no posterior, so there is nothing to pull",
        ),
    ],
)
def test_blocks_that_contradict_each_other_stop_before_training(
    parent: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ParamsError, match=said):
        run(parent, tmp_path, params(**changes))
    assert not (tmp_path / "out").exists()


def test_a_gate_on_what_could_not_be_measured_warns_with_the_reason() -> None:
    found = {gate["name"]: gate for gate in gates(params().gates, {"psnr": 30.0}, {"psnr": 29.5})}
    assert found["psnr_fall"]["verdict"] == "pass"
    assert found["flicker"]["verdict"] == "warn" and "value" not in found["flicker"]
    assert "a picture is one frame" in found["flicker"]["reason"]


def test_a_discriminator_without_an_adversarial_block_is_refused() -> None:
    with pytest.raises(ValidationError, match="a block each, or null both"):
        params(adversarial=None)


@pytest.mark.costly
def test_a_posterior_is_trained_and_its_mean_are_the_latents(parent: Path, tmp_path: Path) -> None:
    kl = {"weight": 0.01, "warmup": {"shape": "cosine", "start": 0, "steps": 4}, "reduce": "mean", "free_bits": 0.0}
    section = autoencoder_params(steps=3).model_copy(update={"losses": losses(kl=kl)})
    out = tmp_path / "vae"
    train_autoencoder(section, parent / "clips", out, tmp_path / "m.json", tmp_path / "plots")
    network = load_autoencoder(out)
    assert network.config["posterior"]  # type: ignore[union-attr, index]
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    assert torch.equal(network.encode(video), network.encode(video))
    assert {"loss/kl", "weight/kl", "weight/kl_per_element", "loss_kl"} <= logged(out)
    assert (tmp_path / "plots/training/kl_loss.png").is_file()
    run(parent, tmp_path, params())
