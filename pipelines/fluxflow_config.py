"""What a configuration of seed D's guide (FluxFlow) says, whichever of its schemas it is written in.

Optimizers and schedules stand in one of three places: under a step (``optimizers``, ``schedulers``, as the guide
writes them, or inside ``optimization``, as its program reads them), at the top (``optimizer_config``,
``scheduler_config``), or in a JSON file that ``optim_sched_config`` names. A command line is one step.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from pipelines.document import load
from pipelines.params import ParamsError

NETWORKS = {
    "vae": "autoencoder",
    "compressor": "autoencoder",
    "expander": "autoencoder",
    "discriminator": "discriminator",
    "D_img": "discriminator",
    "flow": "denoiser",
    "flow_processor": "denoiser",
    "text_encoder": "text_encoder",
}
"""The guide's components, and which network of ours each is."""
METRICS = {
    "loss_recon": "loss/reconstruction",
    "recon": "loss/reconstruction",
    "recon_loss": "loss/reconstruction",
    "loss_kl": "loss/kl",
    "kl": "loss/kl",
    "kl_loss": "loss/kl",
    "loss_gen": "loss/adversarial",
    "generator": "loss/adversarial",
    "loss_disc": "loss/discriminator",
    "discriminator": "loss/discriminator",
    "lpips": "loss/perceptual",
    "vae": "loss/autoencoder",
    "vae_loss": "loss/autoencoder",
    "loss_flow": "loss/denoiser",
    "flow": "loss/denoiser",
    "flow_loss": "loss/denoiser",
}
"""The guide's names of losses, and ours."""
STEP = frozenset(
    [
        "name",
        "description",
        "n_epochs",
        "max_steps",
        "batch_size",
        "lr",
        "lr_min",
        "use_fp16",
        "initial_clipping_norm",
        "training_steps",
        "use_ema",
        "train_vae",
        "gan_training",
        "use_lpips",
        "train_spade",
        "train_diff",
        "train_diff_full",
        "train_reconstruction",
        "cfg_dropout_prob",
        "freeze",
        "unfreeze",
        "freeze_vae",
        "freeze_flow",
        "freeze_text_encoder",
        "kl_beta",
        "kl_warmup_steps",
        "kl_free_bits",
        "lambda_adv",
        "lambda_lpips",
        "mse_weight",
        "r1_interval",
        "r1_gamma",
        "instance_noise_std",
        "instance_noise_decay",
        "adaptive_weights",
        "optimizers",
        "schedulers",
        "optimization",
        "optim_sched_config",
        "transition_on",
        "stop_condition",
        "sample_captions",
        "dataset",
    ]
)
"""Keys that a step, the section ``training`` or the command line may have and that are read."""
TOP = frozenset(
    [
        "data_path",
        "captions_file",
        "fixed_prompt_prefix",
        "use_webdataset",
        "webdataset_url",
        "webdataset_image_key",
        "webdataset_caption_key",
        "webdataset_label_key",
        "vae_dim",
        "feature_maps_dim",
        "feature_maps_dim_disc",
        "img_size",
        "optimizer_config",
        "scheduler_config",
    ]
)
"""The same of data and model."""
NOT_OURS = {
    "workers": "a fact of the machine: set REEL_READERS",
    "output_path": "places are in dvc.yaml: checkpoints/, metrics/, plots/",
    "model_checkpoint": "places are in dvc.yaml: --init of the stage",
    "preserve_lr": "a resume restores optimizer and schedule by itself",
    "text_embedding_dim": "the text encoder is frozen; its width is in latent_shards.text",
    "pretrained_bert_model": "the text encoder is latent_shards.text: {kind: pretrained, name: …}",
    "tokenizer_name": "the tokenizer comes with latent_shards.text",
    "webdataset_token": "a token belongs in no file: the library reads its own variable",
    "tt2m_token": "a token belongs in no file: the library reads its own variable",
    "use_tt2m": "deprecated in the guide; name the tars in raw_video.source",
    "webdataset_size": "the index counts the samples",
    "webdataset_samples_per_shard": "the index counts the samples",
    "generate_diagrams": "diagrams are always drawn",
    "no_samples": "validation decides what is shown: validate_every",
    "samples_per_checkpoint": "validation decides what is shown: validate_every",
    "checkpoint_save_interval": "save_every of the stage",
    "log_interval": "log_every of the stage",
    "test_image_address": "validation shows clips of the split validation",
    "sample_sizes": "sizes are those of the data (raw_video.source.folder.cutting.buckets)",
    "reduced_min_sizes": "sizes are those of the data (raw_video.source.folder.cutting.buckets)",
    "channels": "pictures have three channels",
    "dataloader_max_retries": "files on this machine are read once; a broken one is quarantined",
    "dataloader_retry_delay": "files on this machine are read once; a broken one is quarantined",
    "use_gradient_checkpointing": "gradient_checkpointing of the stage: true",
    "train_text_encoder": "the text encoder is frozen",
    "validate_pipeline": "`reel check` does",
    "defaults": "state values in the steps",
    "datasets": "a stage reads one place; give each data set a stage raw_video of its own",
    "default_dataset": "a stage reads one place",
}
"""Keys of the guide or its program without an equivalent, and why."""
SECTIONS = ("data", "model", "training", "output", "pipeline")


@dataclass
class Config:
    """The keys of data and model, the steps with what they inherit, and what was left out and why."""

    top: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def number(value: Any) -> Any:
    """A number that YAML 1.1 reads as text (``1e-5`` has no dot) as a number; everything else as it is."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?e[-+]?\d+", value):
        return float(value)
    if isinstance(value, dict):
        return {key: number(one) for key, one in value.items()}
    return [number(one) for one in value] if isinstance(value, list) else value


def _sort(config: Config, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Of the values those that a step may have; the rest goes to the top, or is left out with its reason."""
    step = {}
    for key, value in values.items():
        if key in STEP:
            step[key] = value
        elif key in TOP:
            config.top[key] = value
        elif key not in SECTIONS and key != "steps":
            near = difflib.get_close_matches(key, [*STEP, *TOP, *NOT_OURS], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            config.left_out[f"{where}{key}"] = NOT_OURS.get(key, f"no key of the guide or its program{hint}")
    return step


def _optimization(step: dict[str, Any], top: Mapping[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """Optimizers and schedulers by component, from whichever place has them; the step's own win."""
    found: dict[str, dict[str, Any]] = {"optimizers": {}, "schedulers": {}}
    places = [{"optimizers": top.get("optimizer_config"), "schedulers": top.get("scheduler_config")}]
    named = step.pop("optim_sched_config", None)
    if named is not None:
        path = folder / str(named)
        try:
            places.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ParamsError(f"{path}: optim_sched_config of a step cannot be read: {error}") from None
    places += [step.pop("optimization", None) or {}, {key: step.pop(key, None) for key in found}]
    for place in places:
        for kind, entries in found.items():
            for component, entry in (place.get(kind) or {}).items():
                if component not in NETWORKS:
                    raise ParamsError(f"{kind}: {component!r} is no component; one of {', '.join(NETWORKS)}.")
                entries[component] = number(entry)
    return found


def _step(
    config: Config, inherited: Mapping[str, Any], own: Mapping[str, Any], at: int, folder: Path
) -> dict[str, Any]:
    values = {**inherited, **_sort(config, own, f"steps[{at}].")}
    found = _optimization(values, config.top, folder)
    return {**values, **found, "name": re.sub(r"\W+", "_", str(values.get("name") or f"step_{at}")).strip("_")}


def read_yaml(path: Path) -> Config:
    """A config file of the guide.

    Raises:
        ParamsError: it cannot be read, or has no step.
    """
    try:
        content = number(load(path.read_text(encoding="utf-8")))
    except (OSError, YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: no sections (data, model, training) in it.")
    config = Config()
    _sort(config, {key: value for key, value in content.items() if key not in SECTIONS}, "")
    for section in ("data", "model", "output"):
        _sort(config, content.get(section) or {}, f"{section}.")
    training = content.get("training") or {}
    inherited = _sort(config, training, "training.")
    pipeline = training.get("pipeline") or content.get("pipeline") or {}
    steps = pipeline.get("steps") if isinstance(pipeline, dict) else pipeline
    if steps is not None and (not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps)):
        raise ParamsError(f"{path}: training.pipeline.steps is to be a list of steps.")
    _sort(config, pipeline if isinstance(pipeline, dict) else {}, "training.pipeline.")
    if not steps and not any(
        inherited.get(key) for key in ("train_vae", "gan_training", "train_diff", "train_diff_full")
    ):
        raise ParamsError(f"{path}: no training.pipeline.steps, and training itself trains nothing.")
    config.steps = [_step(config, inherited, step, at, path.parent) for at, step in enumerate(steps or [{}])]
    return config


def read_words(words: Sequence[str], folder: Path) -> Config:
    """The words of ``fluxflow-train``: one step; flags without a value are true.

    Raises:
        ParamsError: a word that is no flag.
    """
    values: dict[str, Any] = {}
    key = None
    for word in words:
        if word.startswith("--"):
            key = word[2:].partition("=")[0]
            values[key] = word.partition("=")[2] if "=" in word else True
        elif key is None:
            raise ParamsError(f"{word!r}: expected a flag of fluxflow-train, such as --train_vae.")
        elif values[key] is True:
            values[key] = load(word)
        else:
            values[key] = [*([values[key]] if not isinstance(values[key], list) else values[key]), word]
    if "config" in values:
        return read_yaml(folder / str(values["config"]))
    config = Config()
    config.steps = [_step(config, {}, values, 0, folder)]
    config.left_out = {key.replace("steps[0].", "--"): reason for key, reason in config.left_out.items()}
    return config
