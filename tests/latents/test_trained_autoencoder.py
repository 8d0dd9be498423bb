"""Autoencoders of diffusers trained by the stage: of pictures and of clips, from scratch and from their weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipelines.data.catalog import read_catalog, write_catalog
from pipelines.latents.adversarial import train as train_adversarial
from pipelines.latents.autoencoder import train
from pipelines.latents.clips import Clips
from pipelines.latents.networks import trained_before
from pipelines.latents.params import AutoencoderAdversarialParams, AutoencoderParams, DiffusersAutoencoderParams
from pipelines.latents.quality import latent_statistics
from pipelines.latents.windows import Windows
from pipelines.models.autoencoder import load_autoencoder
from pipelines.models.halves import last_layer, modules_of
from pipelines.models.pretrained_autoencoder import PretrainedVideoAutoencoder
from pipelines.models.trained_autoencoder import TrainedVideoAutoencoder
from pipelines.params import ParamsError
from tests.latents.toy import autoencoder_params, losses, write_clips
from tests.models.tiny_autoencoders import tiny

KL = {"weight": 1e-4, "warmup": None, "reduce": "mean", "free_bits": 0.0}
FORMS = {"AutoencoderKL": (3, 16, 5), "AutoencoderKLWan": (5, 16, 5), "AutoencoderKLLTXVideo": (9, 32, 9)}
"""Frames of a window; side and length of the clips."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The networks' folders, and clips of both forms."""
    place = tmp_path_factory.mktemp("trained")
    for kind in (*FORMS, "AutoencoderTiny"):
        tiny(kind).save_pretrained(place / kind)
    write_clips(place / "clips-16-5")
    write_clips(place / "clips-32-9", range(4), side=32, length=9)
    return place


def section(place: Path, kind: str, steps: int, weights: str = "random", **changes: Any) -> AutoencoderParams:
    network = {"name": str(place / kind), "revision": None, "subfolder": None, "weights": weights}
    plain = autoencoder_params(steps=steps)
    values = {"network": DiffusersAutoencoderParams.model_validate({**network, "frames": FORMS[kind][0]})}
    return plain.model_copy(update={**values, "losses": losses(kl=KL), **changes})


def run(place: Path, out: Path, kind: str, params: AutoencoderParams) -> tuple[Path, dict[str, Any]]:
    _, side, length = FORMS[kind]
    train(params, place / f"clips-{side}-{length}", out / "out", out / "metrics.json", out / "plots")
    return out / "out", json.loads((out / "metrics.json").read_text())


@pytest.mark.costly
@pytest.mark.parametrize("kind", FORMS)
def test_a_network_from_random_weights_learns_and_its_own_config_normalises_its_latents(
    place: Path, tmp_path: Path, kind: str
) -> None:
    out, metrics = run(place, tmp_path, kind, section(place, kind, steps=16))
    losses_of = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    errors = [row["loss/reconstruction"] for row in losses_of if "loss/reconstruction" in row]
    assert np.mean(errors[-3:]) < 0.8 * np.mean(errors[:2])
    assert "loss/kl" in losses_of[0] or any("loss/kl" in row for row in losses_of)
    network = load_autoencoder(out)
    assert type(network) is PretrainedVideoAutoencoder and type(network.network).__name__ == kind
    _, side, length = FORMS[kind]
    clips = Clips(place / f"clips-{side}-{length}")
    mean, std = latent_statistics(network, clips, clips.rows("train"), torch.device("cpu"))
    if kind == "AutoencoderKL":  # one number for all channels
        assert float((std.square() + mean.square()).mean()) == pytest.approx(1.0, rel=0.05)
    else:
        assert torch.allclose(mean, torch.zeros_like(mean), atol=0.02)
        assert torch.allclose(std, torch.ones_like(std), atol=0.02)
    assert metrics["num_held_out"] >= 1 and (tmp_path / "plots/reconstructions.png").is_file()


@pytest.mark.costly
def test_fine_tuning_begins_at_the_pretrained_weights(place: Path, tmp_path: Path) -> None:
    kind = "AutoencoderKLWan"
    seeded = {"training": autoencoder_params(steps=1).training.model_copy(update={"seed": 7})}  # theirs were made of 0
    random, _ = run(place, tmp_path / "random", kind, section(place, kind, 1, "random", **seeded))
    tuned, _ = run(place, tmp_path / "tuned", kind, section(place, kind, 1, "pretrained", **seeded))

    def distance(folder: Path) -> float:
        first, second = (load_autoencoder(one).state_dict() for one in (place / kind, folder))
        return max(float((first[name] - second[name]).abs().max()) for name in first if "conv_out.weight" in name)

    assert 0 < distance(tuned) < 0.01 < distance(random)


@pytest.mark.costly
def test_a_stopped_training_goes_on_exactly(place: Path, tmp_path: Path) -> None:
    kind = "AutoencoderKL"

    def steps(count: int) -> AutoencoderParams:
        plain = section(place, kind, 2)
        return plain.model_copy(update={"training": plain.training.model_copy(update={"steps": count})})

    whole, _ = run(place, tmp_path / "whole", kind, steps(4))
    run(place, tmp_path / "parts", kind, steps(2))
    parts, metrics = run(place, tmp_path / "parts", kind, steps(4))
    name = "diffusion_pytorch_model.safetensors"
    assert metrics["resumes"] == 1 and (whole / name).read_bytes() == (parts / name).read_bytes()


@pytest.mark.costly
def test_the_game_goes_on_from_it_with_its_encoder_frozen(place: Path, tmp_path: Path) -> None:
    kind = "AutoencoderKLWan"
    parent, _ = run(place, tmp_path, kind, section(place, kind, 2))
    game = {"weight": 0.5, "warmup": None, "game": "relativistic", "balance": {"most": 1.0}, "r1": None}
    params = AutoencoderAdversarialParams.model_validate(
        {
            "freeze": ["encoder"],
            "losses": losses().model_dump(mode="json"),
            "adversarial": game | {"lecam": None, "instance_noise": None},
            "discriminator": {"dimensions": 3, "width": 4, "levels": 2, "condition": "latents"},
            "augmentation": None,
            "gates": {"max_psnr_fall": 99.0, "max_perceptual": 99.0, "max_flicker": 99.0},
            "training": autoencoder_params(steps=2).training.model_dump(mode="json"),
        }
    )
    out = tmp_path / "game"
    train_adversarial(params, place / "clips-16-5", parent, out, out.with_suffix(".json"), tmp_path / "plots")
    before, after = load_autoencoder(parent), load_autoencoder(out)
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    assert torch.equal(before.encode(video), after.encode(video))
    assert not torch.equal(before.decode(before.encode(video)), after.decode(after.encode(video)))
    again = trained_before(out)  # so that a next stage can go on from it
    assert isinstance(again, TrainedVideoAutoencoder) and again.frames == 5


def test_windows_begin_anywhere_and_pictures_train_beside_clips(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips", range(12), length=9)
    write_clips(tmp_path / "pictures", range(12, 16), length=1)
    for file in (tmp_path / "pictures/clips").iterdir():
        file.rename(tmp_path / "clips/clips" / file.name)
    rows = [row for name in ("clips", "pictures") for row in read_catalog(tmp_path / name).to_dict("records")]
    write_catalog(tmp_path / "clips", rows)
    clips = Clips(tmp_path / "clips")
    windows = Windows(clips, list(range(16)), 5, 4, batch_size=4, seed=0)
    shapes = [tuple(windows.read(step, 0, 4)["video"].shape[2:]) for step in range(24)]
    assert set(shapes) == {(5, 16, 16), (1, 16, 16)}
    starts = {int(start) for step in range(24) for row, start in windows.order.batch(step) if row < 12}
    assert starts == {0, 1, 2, 3, 4}


@pytest.mark.costly
@pytest.mark.parametrize("kind", ["ours", "AutoencoderKLWan"])
def test_pictures_and_clips_of_two_sizes_train_one_autoencoder(place: Path, tmp_path: Path, kind: str) -> None:
    forms = {"clips": (range(8), 16, 5), "wide": (range(8, 16), 24, 5), "pictures": (range(16, 24), 16, 1)}
    rows = []
    for name, (numbers, side, length) in forms.items():
        write_clips(tmp_path / name, numbers, side=side, length=length)
        rows += read_catalog(tmp_path / name).to_dict("records")
        for file in (tmp_path / name / "clips").iterdir() if name != "clips" else ():
            file.rename(tmp_path / "clips/clips" / file.name)
    write_catalog(tmp_path / "clips", rows)
    params = autoencoder_params(steps=6) if kind == "ours" else section(place, kind, 6)
    train(params, tmp_path / "clips", tmp_path / "out", tmp_path / "m.json", tmp_path / "plots")
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["num_held_out"] == 6 and metrics["psnr_worst_clip"] <= metrics["psnr"]
    clips = Clips(tmp_path / "clips")
    network = load_autoencoder(tmp_path / "out")
    shapes = {tuple(network.encode(video).shape[2:]) for _, video in clips.videos(clips.rows("validation"), 1)}
    assert shapes == {(2, 2, 2), (2, 3, 3), (1, 2, 2)}


@pytest.mark.parametrize(
    ("kind", "frames", "said"),
    [
        ("AutoencoderKLWan", 6, r"network.frames: windows of 6 frames, .* 1 mod 4; use 5 or 9"),
        ("AutoencoderTiny", 1, r"losses.kl: .*AutoencoderTiny has no posterior, .* set kl: null"),
    ],
)
def test_what_does_not_go_together_stops_before_training(
    place: Path, tmp_path: Path, kind: str, frames: int, said: str
) -> None:
    named = {"name": str(place / kind), "revision": None, "subfolder": None, "weights": "random", "frames": frames}
    params = autoencoder_params().model_copy(
        update={"network": DiffusersAutoencoderParams.model_validate(named), "losses": losses(kl=KL)}
    )
    with pytest.raises(ParamsError, match=said):
        train(params, place / "clips-16-5", tmp_path / "out", tmp_path / "m.json", tmp_path / "plots")


def test_a_wrong_key_is_told_of_the_network_that_was_meant() -> None:
    plain = autoencoder_params().model_dump(mode="json")
    named = {"name": "a", "revision": None, "subfolder": None, "weights": "none", "frames": 5}
    with pytest.raises(ValidationError, match="'pretrained' or 'random'") as error:
        AutoencoderParams.model_validate(plain | {"network": named})
    assert error.value.error_count() == 1


def test_every_kind_has_two_halves_and_a_last_layer() -> None:
    for kind in FORMS:
        network = TrainedVideoAutoencoder(tiny(kind))
        halves = [id(p) for part in ("encoder", "decoder") for m in modules_of(network, part) for p in m.parameters()]
        assert len(halves) == len(set(halves)) == sum(1 for _ in network.parameters())
        assert last_layer(network).shape[0] % 3 == 0
