"""Every key of seed D's guide and of its program counts in an import, or is named; what a key cannot be is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.document import load
from pipelines.fluxflow import main
from pipelines.fluxflow_config import read_yaml
from pipelines.fluxflow_keys import STEP, TOP
from pipelines.fluxflow_sections import Import

ROOT = Path(__file__).parents[1]
EVERY = """
data: {data_path: pictures, captions_file: captions.txt}
training:
  pipeline:
    steps:
      - {name: warm, n_epochs: 1, train_vae: true}
      - {name: game, n_epochs: 1, train_vae: true, gan_training: true, use_lpips: true}
      - {name: flow, n_epochs: 1, train_diff_full: true}
"""
READ = {  # key to (step of EVERY, or the section it stands in; a value unlike the usual one)
    "name": (1, "other"),
    "description": (1, "words"),
    "n_epochs": (0, 3),
    "max_steps": (0, 7),
    "batch_size": (0, 4),
    "lr": (0, "1e-5"),
    "lr_min": (0, 0.3),
    "use_fp16": (0, "yes"),
    "initial_clipping_norm": (0, 0.5),
    "training_steps": (0, 4),
    "use_ema": (0, False),
    "train_vae": (2, True),
    "gan_training": (0, True),
    "use_lpips": (0, True),
    "train_spade": (1, True),
    "train_diff": (1, True),
    "train_diff_full": (1, True),
    "train_reconstruction": (1, False),
    "cfg_dropout_prob": (2, 0.1),
    "freeze": (1, ["compressor"]),
    "unfreeze": (1, ["expander"]),
    "freeze_text_encoder": (2, False),
    "kl_beta": (0, 1.0e-3),
    "kl_warmup_steps": (0, 9),
    "kl_free_bits": (0, 0.25),
    "lambda_adv": (1, 0.9),
    "lambda_lpips": (1, 0.2),
    "mse_weight": (0, 0.2),
    "r1_interval": (1, 8),
    "r1_gamma": (1, 1.0),
    "instance_noise_std": (1, 0.1),
    "instance_noise_decay": (1, 0.5),
    "adaptive_weights": (1, False),
    "optimizers": (0, {"vae": {"type": "Lion"}}),
    "schedulers": (0, {"vae": {"type": "ConstantLR"}}),
    "optimization": (0, {"optimizers": {"vae": {"type": "Lion"}}}),
    "stop_condition": (0, {"loss_name": "loss_kl", "threshold": 1}),
    "transition_on": (0, {"mode": "loss_threshold", "metric": "recon", "threshold": 0.1, "max_epochs": 9}),
    "sample_captions": (2, ["a cat"]),
    "dataset": (0, "other"),
    "data_path": ("data", "elsewhere"),
    "captions_file": ("data", "other.txt"),
    "fixed_prompt_prefix": ("data", "anime"),
    "use_webdataset": ("data", True),
    "webdataset_url": ("data", "b.tar"),
    "webdataset_image_key": ("data", "jpg"),
    "webdataset_caption_key": ("data", "text"),
    "webdataset_label_key": ("data", "txt"),
    "vae_dim": ("model", 64),
    "feature_maps_dim": ("model", 64),
    "feature_maps_dim_disc": ("model", 16),
    "img_size": ("data", 512),
    "optimizer_config": ("data", {"vae": {"type": "Lion"}}),
    "scheduler_config": ("data", {"vae": {"type": "ConstantLR"}}),
}
LEFT_OUT = [
    "workers",
    "output_path",
    "model_checkpoint",
    "preserve_lr",
    "text_embedding_dim",
    "pretrained_bert_model",
    "tokenizer_name",
    "webdataset_token",
    "tt2m_token",
    "use_tt2m",
    "webdataset_size",
    "webdataset_samples_per_shard",
    "generate_diagrams",
    "no_samples",
    "samples_per_checkpoint",
    "checkpoint_save_interval",
    "log_interval",
    "test_image_address",
    "sample_sizes",
    "reduced_min_sizes",
    "channels",
    "dataloader_max_retries",
    "dataloader_retry_delay",
    "use_gradient_checkpointing",
    "validate_pipeline",
    "defaults",
    "datasets",
    "default_dataset",
]
ENTRIES = {
    "optimizers": {
        "AdamW": {"lr": 1, "betas": [0.1, 0.2], "weight_decay": 0.5, "amsgrad": True, "eps": 1, "momentum": 1},
        "SGD": {"momentum": 0.5, "nesterov": True},
        "RMSprop": {"alpha": 0.5},
        "Lion": {"decoupled_weight_decay": True, "amsgrad": True},
    },
    "schedulers": {
        "CosineAnnealingLR": {"eta_min_factor": 0.5, "T_max": 3},
        "LinearLR": {"end_factor": 0.5},
        "ExponentialLR": {"gamma": 0.5},
        "StepLR": {"step_size": 3, "gamma": 0.5},
        "ReduceLROnPlateau": {"patience": 3, "factor": 0.5},
    },
}


def made(folder: Path, content: dict[str, Any]) -> tuple[Any, ...]:
    """Everything that an import says of a configuration."""
    (folder / "every.yaml").write_text(json.dumps(content))  # json is yaml
    got = Import(read_yaml(folder / "every.yaml"), 100)
    return got.sections, got.left_out, got.stages, got.placed


@pytest.mark.parametrize("key", READ)
def test_no_key_of_the_guide_is_passed_over(tmp_path: Path, key: str) -> None:
    place, value = READ[key]
    content = json.loads(json.dumps(load(EVERY)))
    if key.startswith("webdataset"):
        content["data"] |= {"use_webdataset": True, "webdataset_url": "a.tar"}
    if key == "use_webdataset":
        content["data"]["webdataset_url"] = "a.tar"
    before = made(tmp_path, content)
    holder = (
        content["training"]["pipeline"]["steps"][place] if isinstance(place, int) else content.setdefault(place, {})
    )
    holder[key] = value
    assert made(tmp_path, content) != before


@pytest.mark.parametrize("key", [*LEFT_OUT, "nobody_knows_this"])
def test_what_has_no_equivalent_is_named_with_its_reason(tmp_path: Path, key: str) -> None:
    content = load(EVERY)
    content["training"][key] = 1
    assert len(made(tmp_path, content)[1][f"training.{key}"]) > 10


@pytest.mark.parametrize(
    ("kind", "name", "key"),
    [(kind, name, key) for kind, many in ENTRIES.items() for name in many for key in many[name]],
)
def test_every_value_of_an_optimizer_or_schedule_counts_or_is_named(
    tmp_path: Path, kind: str, name: str, key: str
) -> None:
    content = json.loads(json.dumps(load(EVERY)))
    entry = content["training"]["pipeline"]["steps"][0].setdefault(kind, {}).setdefault("vae", {"type": name})
    before = made(tmp_path, content)
    entry[key] = ENTRIES[kind][name][key]
    assert made(tmp_path, content) != before


def test_the_keys_that_are_tried_are_all_that_are_read() -> None:
    elsewhere = {"optim_sched_config", "freeze_vae", "freeze_flow"}  # tried by tests of their own
    assert set(READ) | elsewhere == set(STEP) | set(TOP)


GAN = ", gan_training: true"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (", batch_size: four", "steps[0].batch_size is to be a whole number from 1, not 'four'"),
        (", n_epochs: 0", "steps[0].n_epochs is to be a whole number from 1, not 0"),
        (", lr: [1]", "steps[0].lr is to be a number"),
        (", kl_free_bits: -0.1", "autoencoder.losses.kl.free_bits: got -0.1"),
        (", optimizers: [1]", "steps[0].optimizers is to be a block of keys"),
        (", optimizers: {vae: AdamW}", "steps[0].optimizers.vae is to be a block of keys"),
        (", optimizers: {vae: {betas: 0.9}}", "betas is to be a list of two numbers"),
        (", stop_condition: loss_recon", "steps[0].stop_condition is to be a block of keys"),
        (", stop_condition: {loss_name: loss_recon}", "without a number; state threshold"),
        (", stop_condition: {loss_name: loss_flow, threshold: 1}", "this step does not have; it has loss_recon"),
        (", kl_beta: 0, stop_condition: {loss_name: kl, threshold: 1}", "'kl', which this step does not have"),
        (GAN + ", freeze: [foo]", "'foo' is no component; one of vae, compressor"),
        (GAN + ", freeze: [compressor, expander]", "what it trains is frozen"),
        (", freeze_vae: true", "what it trains is frozen"),
        (", train_reconstruction: false", "train_reconstruction false without gan_training"),
        ("}\n      - {name: a, train_vae: true", "two steps are named a"),
        (
            "}\n      - {name: b, train_vae: true}\n      - {name: latent_shards, train_vae: true",
            "there is a stage latent_shards",
        ),
        ("}\n      - {name: f, train_diff: true, freeze_flow: true", "step f: what it trains is frozen"),
    ],
)
def test_values_that_a_key_cannot_have_are_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, said: str
) -> None:
    step = f"      - {{name: a, train_vae: true{more}}}\n"
    (tmp_path / "config.yaml").write_text("training:\n  pipeline:\n    steps:\n" + step)
    assert main(["--images", "10", "--params", str(ROOT / "params.yaml"), str(tmp_path / "config.yaml")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "trains nothing; one of --train_vae"),
        (["--train_vae", "--n_epochs", "many"], "--n_epochs is to be a whole number from 1, not 'many'"),
        (["--train_vae", "--batch_size"], "--batch_size is to be a whole number from 1, not True"),
    ],
)
def test_words_that_say_nothing_are_told_in_a_line(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["--params", str(ROOT / "params.yaml"), "--", "fluxflow-train", *words]) == 2
    assert said in capsys.readouterr().err


def test_tars_without_an_address_or_with_a_pattern_are_named(tmp_path: Path) -> None:
    for data, named in (({}, "use_webdataset"), ({"webdataset_url": "hf://datasets/a/b/c_*.tar"}, "webdataset_url: *")):
        content = load(EVERY)
        content["data"] = {"use_webdataset": True, **data}
        sections, left_out, *_ = made(tmp_path, content)
        assert named in left_out and ("raw_video" in sections) == bool(data)


def test_truth_is_read_as_the_guides_program_reads_it(tmp_path: Path) -> None:
    content = load(EVERY)
    content["training"]["pipeline"]["steps"][1]["gan_training"] = "no"  # YAML 1.2 leaves it text, which is true
    sections = made(tmp_path, content)[0]
    assert sections["autoencoder_adversarial"]["adversarial"] is None


def test_the_epochs_of_a_transition_bound_a_step(tmp_path: Path) -> None:
    for rule, epochs in (({"mode": "epoch", "value": 3}, 3), ({"max_epochs": 4, "metric": "kl", "threshold": 1}, 4)):
        content = load(EVERY)
        content["training"]["pipeline"]["steps"][0] |= {"n_epochs": 9, "transition_on": rule}
        assert made(tmp_path, content)[0]["autoencoder"]["training"]["steps"] == epochs * 50
