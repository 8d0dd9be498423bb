"""Configurations of seed D's guide, in each of its schemas, become sections that the stages take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines import profile
from pipelines.fluxflow import main

ROOT = Path(__file__).parents[1]
DATA = 'data: {data_path: pictures, captions_file: captions.txt, fixed_prompt_prefix: "style anime"}\n'
MODEL = "model: {vae_dim: 32, feature_maps_dim: 64, feature_maps_dim_disc: 8}\n"
INLINE = """
training:
  batch_size: 4
  workers: 8
  pipeline:
    steps:
      - name: vae_warmup
        n_epochs: 10
        train_vae: true
        lr: 2e-5
        kl_beta: 0.0001
        stop_condition: {loss_name: loss_recon, threshold: 0.02}
      - name: vae_spade_gan
        n_epochs: 40
        train_vae: true
        train_spade: true
        gan_training: true
        lambda_adv: 0.9
        kl_beta: 0.001
        optimizers:
          vae: {optimizer_type: Lion, lr: 5e-6, weight_decay: 0.01}
          discriminator: {optimizer_type: AdamW, lr: 5e-6, betas: [0.0, 0.9], amsgrad: true}
        schedulers:
          vae: {scheduler_type: CosineAnnealingLR, eta_min_factor: 0.1}
      - name: flow_training
        max_steps: 70
        train_diff_full: true
        freeze_vae: true
        lr: 5e-7
"""


def imported(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, *more: str) -> tuple[dict[str, Any], str]:
    """Sections, and the whole text that was printed."""
    (tmp_path / "captions.txt").write_text("".join(f"{n}.png\\ta picture {n}\n" for n in range(100)))
    (tmp_path / "config.yaml").write_text(text)
    code = main([*more, "--params", str(ROOT / "params.yaml"), str(tmp_path / "config.yaml")])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return changed(tmp_path, printed.out), printed.out


def changed(folder: Path, text: str) -> dict[str, Any]:
    """What a profile of this text changes."""
    (folder / "printed.yaml").write_text(text)
    return profile.changes(folder / "printed.yaml")


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where dvc.yaml says which sections there are


def test_the_guides_pipeline_becomes_three_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sections, text = imported(tmp_path, capsys, DATA + MODEL + INLINE)
    assert list(sections) == ["raw_video", "autoencoder", "autoencoder_adversarial", "rectified_flow"]
    folder = sections["raw_video"]["source"]["folder"]
    assert (folder["path"], folder["captions"], folder["prompt_prefix"]) == ("pictures", "captions.txt", "style anime")
    warm, game = sections["autoencoder"], sections["autoencoder_adversarial"]
    assert warm["network"] == {"latent_channels": 32, "width": 64, "spade": 128}
    assert warm["training"]["steps"] == 10 * 25 and game["training"]["steps"] == 40 * 25
    assert warm["training"]["stop_when"] == {"metric": "loss/reconstruction", "below": 0.02, "smoothed_over": 20}
    assert warm["training"]["optimizer"]["learning_rate"] == 2e-5  # text to a YAML 1.1 reader
    assert warm["losses"]["kl"]["weight"] == 0.0001 and game["losses"]["kl"]["reduce"] == "mean"
    assert game["adversarial"]["weight"] == 0.9 and game["adversarial"]["r1"] == {"gamma": 5.0, "every": 16}
    assert game["training"]["optimizer"]["name"] == "lion"
    critic = game["training"]["per_network"]["discriminator"]["optimizer"]
    assert critic["name"] == "adam" and critic["amsgrad"] and critic["betas"] == [0.0, 0.9]
    assert sections["rectified_flow"]["training"]["steps"] == 70
    assert "#   training.workers: a fact of the machine: set REEL_READERS" in text


@pytest.mark.costly
def test_the_three_places_of_optimizers_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"type": "RMSprop", "lr": 3e-4, "weight_decay": 0.0, "alpha": 0.9}
    (tmp_path / "rms.json").write_text(json.dumps({"optimizers": {"vae": entry}}))
    step = "training: {pipeline: {steps: [{name: a, n_epochs: 1, train_vae: true, %s}]}}\n"
    inline = step % "optimizers: {vae: {type: RMSprop, lr: 3e-4, weight_decay: 0.0, alpha: 0.9}}"
    within = step % "optimization: {optimizers: {vae: {type: RMSprop, lr: 3e-4, weight_decay: 0.0, alpha: 0.9}}}"
    named = step % "optim_sched_config: rms.json"
    top = "optimizer_config: {vae: {type: RMSprop, lr: 3e-4, weight_decay: 0.0, alpha: 0.9}}\n" + step % "lr: 1e-5"
    found = [imported(tmp_path, capsys, DATA + text)[0]["autoencoder"] for text in (inline, within, named, top)]
    assert all(one["training"]["optimizer"] == found[0]["training"]["optimizer"] for one in found)
    assert found[0]["training"]["optimizer"]["smoothing"] == 0.9


def test_further_steps_of_a_kind_are_stages_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = INLINE.replace(
        "      - name: flow_training",
        "      - name: longer\n        n_epochs: 5\n        train_vae: true\n"
        "        gan_training: true\n        train_reconstruction: false\n      - name: flow_training",
    )
    sections, text = imported(tmp_path, capsys, DATA + MODEL + again)
    assert (
        sections["longer"]["losses"]["reconstruction"] is None and sections["longer"]["adversarial"]["balance"] is None
    )
    assert "--params longer --clips data/clips --init checkpoints/autoencoder_adversarial" in text


def test_the_command_line_is_one_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "--data_path pictures --captions_file none.txt --train_vae --n_epochs 5 --batch_size 2 --lr 1e-5 --vae_dim 64"
    )
    arguments = ["--images", "10", "--params", str(ROOT / "params.yaml"), "--", "fluxflow-train", *words.split()]
    assert main([*arguments, "--workers", "4"]) == 0
    printed = capsys.readouterr().out
    section = changed(tmp_path, printed)["autoencoder"]
    assert section["training"]["steps"] == 25 and section["network"]["latent_channels"] == 64
    assert "#   --workers: a fact of the machine" in printed


@pytest.mark.costly
def test_what_is_printed_is_a_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = imported(tmp_path, capsys, DATA + MODEL + INLINE)
    (tmp_path / "mine.yaml").write_text(text)
    assert "\nvae_spade_gan:" not in profile.complete("mine", tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DATA + "training: {batch_size: 2}\n", "no training.pipeline.steps"),
        (DATA + INLINE.replace("loss_recon", "loss_vea"), "threshold on 'loss_vea'; losses are loss_recon"),
        (DATA + INLINE.replace("Lion", "Sophia"), "optimizer 'Sophia': no equivalent; there are AdamW"),
        (DATA + INLINE.replace("          vae: {opt", "          vea: {opt"), "'vea' is no component; one of vae"),
        (DATA.replace("captions.txt", "away.txt") + INLINE, "how many updates depends on the number of pictures"),
        ("- a\n- b\n", "no sections"),
        ("a: [1\n", "cannot be read"),
    ],
)
def test_what_cannot_be_imported_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "captions.txt").write_text("1.png\ta picture\n")
    assert main(["--params", str(ROOT / "params.yaml"), str(tmp_path / "config.yaml")]) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_key_is_named_with_a_guess(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = imported(tmp_path, capsys, DATA + INLINE.replace("lambda_adv", "lamda_adv"))
    assert "#   steps[1].lamda_adv: no key of the guide or its program; did you mean lambda_adv?" in text
