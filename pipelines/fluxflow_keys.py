"""The keys of seed D's guide (FluxFlow) and its program: what kind of value each has, and which have no equivalent."""

from __future__ import annotations

import math
from typing import Any, Literal

Kind = Literal["count", "whole", "number", "flag", "text", "texts", "pair", "block", "rules"]
WORDS = {
    "count": "a whole number from 1",
    "whole": "a whole number from 0",
    "number": "a number",
    "flag": "true or false",
    "text": "text",
    "texts": "text, or a list of texts",
    "pair": "a list of two numbers",
    "block": "a block of keys",
    "rules": "a block of keys",
}
"""What is said of a value that is of no such kind."""
FLAGS = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
"""Truth as YAML 1.1, which the guide's program reads, writes it too; in YAML 1.2 ``no`` is a text."""

STEP: dict[str, Kind] = {
    "name": "text",
    "description": "text",
    "n_epochs": "count",
    "max_steps": "count",
    "batch_size": "count",
    "lr": "number",
    "lr_min": "number",
    "use_fp16": "flag",
    "initial_clipping_norm": "number",
    "training_steps": "count",
    "use_ema": "flag",
    "train_vae": "flag",
    "gan_training": "flag",
    "use_lpips": "flag",
    "train_spade": "flag",
    "train_diff": "flag",
    "train_diff_full": "flag",
    "train_reconstruction": "flag",
    "cfg_dropout_prob": "number",
    "freeze": "texts",
    "unfreeze": "texts",
    "freeze_vae": "flag",
    "freeze_flow": "flag",
    "freeze_text_encoder": "flag",
    "kl_beta": "number",
    "kl_warmup_steps": "whole",
    "kl_free_bits": "number",
    "lambda_adv": "number",
    "lambda_lpips": "number",
    "mse_weight": "number",
    "r1_interval": "count",
    "r1_gamma": "number",
    "instance_noise_std": "number",
    "instance_noise_decay": "number",
    "adaptive_weights": "flag",
    "optimizers": "block",
    "schedulers": "block",
    "optimization": "block",
    "optim_sched_config": "text",
    "transition_on": "rules",
    "stop_condition": "rules",
    "sample_captions": "texts",
    "dataset": "text",
}
"""Keys that a step, the section ``training`` or the command line may have and that are read."""
TOP: dict[str, Kind] = {
    "data_path": "text",
    "captions_file": "text",
    "fixed_prompt_prefix": "text",
    "use_webdataset": "flag",
    "webdataset_url": "text",
    "webdataset_image_key": "text",
    "webdataset_caption_key": "text",
    "webdataset_label_key": "text",
    "vae_dim": "count",
    "feature_maps_dim": "count",
    "feature_maps_dim_disc": "count",
    "img_size": "count",
    "optimizer_config": "block",
    "scheduler_config": "block",
}
"""The same of data and model."""
RULES: dict[str, Kind] = {
    "loss_name": "text",
    "metric": "text",
    "threshold": "number",
    "value": "number",
    "mode": "text",
    "max_epochs": "count",
}
"""Of ``stop_condition`` and ``transition_on``."""
ENTRY: dict[str, dict[str, Kind]] = {
    "optimizers": {
        "type": "text",
        "optimizer_type": "text",
        "lr": "number",
        "betas": "pair",
        "weight_decay": "number",
        "amsgrad": "flag",
        "momentum": "number",
        "nesterov": "flag",
        "alpha": "number",
    },
    "schedulers": {
        "type": "text",
        "scheduler_type": "text",
        "eta_min_factor": "number",
        "end_factor": "number",
        "gamma": "number",
        "step_size": "count",
        "patience": "count",
        "factor": "number",
    },
}
"""Of an optimizer and of a scheduler."""
ENDS = "a schedule ends with its stage: training.steps"
ENTRY_NOT_OURS = {
    "decoupled_weight_decay": "weight decay is decoupled always",
    "eps": "PyTorch's own, 1e-8",
    "T_max": ENDS,
    "total_iters": ENDS,
    "start_factor": "a schedule starts at the whole rate; warmup_steps grows to it",
    "milestones": "a step schedule has equal steps: every, factor",
    "mode": "a watched loss is to fall",
    "threshold": "min_change of the schedule",
    "cooldown": "patience of the schedule",
}
"""Keys of such entries without an equivalent, and why."""
_SIZES = "sizes are those of the data (raw_video.source.folder.cutting.buckets)"
_SHOWN = "validation decides what is shown: validate_every"
_READ = "files on this machine are read once; a broken one is quarantined"
_TOKEN = "a token belongs in no file: the library reads its own variable"
NOT_OURS = {
    "workers": "a fact of the machine: set REEL_READERS",
    "output_path": "places are in dvc.yaml: checkpoints/, metrics/, plots/",
    "model_checkpoint": "places are in dvc.yaml: --init of the stage",
    "preserve_lr": "a resume restores optimizer and schedule by itself",
    "text_embedding_dim": "the text encoder is frozen; its width is in latent_shards.text",
    "pretrained_bert_model": "the text encoder is latent_shards.text: {kind: pretrained, name: …}",
    "tokenizer_name": "the tokenizer comes with latent_shards.text",
    "webdataset_token": _TOKEN,
    "tt2m_token": _TOKEN,
    "use_tt2m": "deprecated in the guide; name the tars in raw_video.source",
    "webdataset_size": "the index counts the samples",
    "webdataset_samples_per_shard": "the index counts the samples",
    "generate_diagrams": "diagrams are always drawn",
    "no_samples": _SHOWN,
    "samples_per_checkpoint": _SHOWN,
    "checkpoint_save_interval": "save_every of the stage",
    "log_interval": "log_every of the stage",
    "test_image_address": "validation shows clips of the split validation",
    "sample_sizes": _SIZES,
    "reduced_min_sizes": _SIZES,
    "channels": "pictures have three channels",
    "dataloader_max_retries": _READ,
    "dataloader_retry_delay": _READ,
    "use_gradient_checkpointing": "gradient_checkpointing of the stage: true",
    "train_text_encoder": "the text encoder is frozen",
    "validate_pipeline": "`reel check` does",
    "defaults": "state values in the steps",
    "datasets": "a stage reads one place; give each data set a stage raw_video of its own",
    "default_dataset": "a stage reads one place",
}
"""Keys of the guide or its program without an equivalent, and why."""


def taken(kind: Kind, value: Any) -> Any:
    """A value as its kind has it: words of truth as booleans, one text as a list, whole floats as whole numbers.

    Raises:
        ValueError: it is of no such kind.
    """
    if kind == "flag" and isinstance(value, str) and value.lower() in FLAGS:
        return FLAGS[value.lower()]
    if kind == "texts":
        value = value if isinstance(value, list) else [value]
    if kind in ("count", "whole") and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind == "text" and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not _fits(kind, value):
        raise ValueError(f"is to be {WORDS[kind]}, not {value!r}")
    return value


def _fits(kind: Kind, value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    match kind:
        case "count" | "whole":
            return is_number and isinstance(value, int) and value >= (kind == "count")
        case "number":
            return is_number
        case "flag":
            return isinstance(value, bool)
        case "text":
            return isinstance(value, str)
        case "texts":
            return isinstance(value, list) and all(isinstance(one, str) for one in value)
        case "pair":
            return isinstance(value, list) and len(value) == 2 and all(_fits("number", one) for one in value)
        case _:
            return isinstance(value, dict)
