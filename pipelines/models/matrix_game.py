"""Published Matrix-Game 2.0 networks (arXiv:2508.13009) as a :class:`WorldModel`: Wan's names to diffusers' and ours.

A folder holds ``config.json`` with Wan's words (dim, num_heads, in_dim 36, out_dim 16, ``action_config``) and one
safetensors file. 36 channels are 16 of the latents, 4 of the mask and 16 of what is given, in this order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor

from pipelines.models.world_model import Inputs, WorldModel
from pipelines.stage import StageError

WEIGHTS = "diffusion_pytorch_model.safetensors"
CHUNK = 3
"""Latent frames that published networks make at once."""
EVERYTHING = 1000
"""A window that no rollout of a published network outgrows, where its config bounds none."""
TRANSFORMER = (
    (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
    (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
    (r"^time_projection\.1\.", "condition_embedder.time_proj."),
    (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
    (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
    (r"^img_emb\.proj\.0\.", "condition_embedder.image_embedder.norm1."),
    (r"^img_emb\.proj\.1\.", "condition_embedder.image_embedder.ff.net.0.proj."),
    (r"^img_emb\.proj\.3\.", "condition_embedder.image_embedder.ff.net.2."),
    (r"^img_emb\.proj\.4\.", "condition_embedder.image_embedder.norm2."),
    (r"^head\.modulation$", "scale_shift_table"),
    (r"^head\.head\.", "proj_out."),
    (r"\.modulation$", ".scale_shift_table"),
    (r"\.norm3\.", ".norm2."),
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"\.(q|k|v)\.(weight|bias)$", r".to_\1.\2"),
    (r"\.o\.(weight|bias)$", r".to_out.0.\1"),
    (r"\.ffn\.0\.", ".ffn.net.0.proj."),
    (r"\.ffn\.2\.", ".ffn.net.2."),
)
ACTIONS = {
    "keyboard_embed": "key_embed",
    "mouse_mlp": "mouse_mlp",
    "t_qkv": "mouse_qkv",
    "img_attn_q_norm": "mouse_norm_q",
    "img_attn_k_norm": "mouse_norm_k",
    "proj_mouse": "mouse_out",
    "mouse_attn_q": "key_q",
    "keyboard_attn_kv": "key_kv",
    "key_attn_q_norm": "key_norm_q",
    "key_attn_k_norm": "key_norm_k",
    "proj_keyboard": "key_out",
}
UNUSED = "condition_embedder.text_embedder."
"""Of the transformer; a published network hears an image in its place, and may hold no weights for it."""


def load_matrix_game(folder: Path, keys: int | None = None) -> WorldModel:
    """The network of a folder; ``keys``: how many keys it is to hear, where that is not what it was trained with.

    Then the first layer of every keyboard embedding is new, drawn from torch's generator; everything else is kept.

    Raises:
        StageError: the folder holds no such network, or weights are missing or are of another size.
    """
    config = _config(folder)
    stated = config["action_config"]
    inputs = _inputs(config, stated, keys or int(stated.get("keyboard_dim_in", 0)))
    model = WorldModel(_transformer(config), inputs)
    frames, actions = _renamed(_weights(folder))
    missing, unexpected = model.transformer.load_state_dict(_fitting(folder, model.transformer, frames), strict=False)
    _require(folder, [name for name in missing if not name.startswith(UNUSED)], unexpected)
    _load_actions(folder, model, actions)
    return model.eval()


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        wanted = ("dim", "num_heads", "num_layers", "ffn_dim", "in_dim", "out_dim", "action_config")
        absent = [name for name in wanted if name not in config]
    except (OSError, ValueError) as error:
        raise StageError(f"{path}: cannot be read ({str(error).splitlines()[0]}).") from None
    if absent:
        raise StageError(f"{path}: lacks {', '.join(absent)}, so this is no Matrix-Game network in Wan's own names.")
    mask = config["in_dim"] - 2 * config["out_dim"]
    if mask < 1:
        raise StageError(
            f"{path}: in_dim {config['in_dim']} and out_dim {config['out_dim']}; an image-to-video network takes the "
            "latents, a mask and the given latents (36 and 16)."
        )
    return config


def _inputs(config: Mapping[str, Any], stated: Mapping[str, Any], keys: int) -> Inputs:
    axes = int(stated.get("mouse_dim_in", 0)) if stated.get("enable_mouse", True) else 0
    reach = int(config.get("local_attn_size", stated.get("local_attn_size", -1)))
    return Inputs(
        latents=int(config["out_dim"]),
        mask=int(config["in_dim"]) - 2 * int(config["out_dim"]),
        positions=0,
        first_frame="image",
        keys=tuple(range(keys)),
        axes=tuple(range(keys, keys + axes)),
        rows=int(stated["vae_time_compression_ratio"]) * int(stated["windows_size"]),
        action={
            "hidden": int(stated["hidden_size"]),
            "inner": int(stated["keyboard_hidden_dim"]),
            "heads": int(stated["heads_num"]),
            "rotary": int(stated.get("mouse_qk_dim_list", stated.get("rope_dim_list", [8]))[0]),
            "theta": float(stated.get("rope_theta", 256)),
            "qkv_bias": bool(stated.get("qkv_bias", False)),
        },
        sink=int(config.get("sink_size", 0)),
        window=reach - CHUNK if reach > CHUNK else EVERYTHING,
    )


def _transformer(config: Mapping[str, Any]) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=tuple(config.get("patch_size", (1, 2, 2))),
        num_attention_heads=int(config["num_heads"]),
        attention_head_dim=int(config["dim"]) // int(config["num_heads"]),
        in_channels=int(config["in_dim"]),
        out_channels=int(config["out_dim"]),
        text_dim=int(config.get("text_dim", 4096)),
        freq_dim=int(config.get("freq_dim", 256)),
        ffn_dim=int(config["ffn_dim"]),
        num_layers=int(config["num_layers"]),
        image_dim=int(config.get("image_dim", 1280)),
    )


def _weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        others = sorted(folder.glob("*.safetensors"))
        if len(others) != 1:
            raise StageError(f"{path}: no such file, and {len(others)} other safetensors files in {folder}.")
        path = others[0]
    return load_file(path)


def _renamed(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of the transformer by diffusers' names, and those of the action modules by ours."""
    frames, actions = {}, {}
    for name, value in weights.items():
        plain = name.removeprefix("model.")
        found = re.fullmatch(r"blocks\.(\d+)\.action_model\.(\w+)\.(.+)", plain)
        if found and found[2] in ACTIONS:
            actions[f"{found[1]}.{ACTIONS[found[2]]}.{found[3]}"] = value.float()
            continue
        for pattern, other in TRANSFORMER:
            plain = re.sub(pattern, other, plain)
        frames[plain] = value.float()
    return frames, actions


def _fitting(folder: Path, network: torch.nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    known = network.state_dict()
    for name, value in weights.items():
        if name in known and known[name].shape != value.shape:
            raise StageError(
                f"{folder}: {name} is {list(value.shape)}, config.json makes it {list(known[name].shape)}; are the two "
                "of one network?"
            )
    return weights


def _require(folder: Path, missing: list[str], unexpected: list[str]) -> None:
    if missing or unexpected:
        kind, names = ("lacks", missing) if missing else ("has, unknown here,", unexpected)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise StageError(f"{folder}: the file {kind} {', '.join(names[:3])}{more}.")


def _load_actions(folder: Path, model: WorldModel, weights: dict[str, Tensor]) -> None:
    """Blocks without a module of their own in the file keep a silent one."""
    known = model.actions.state_dict()
    new = {name for name in weights if name.endswith("key_embed.0.weight") and weights[name].shape != known[name].shape}
    kept = _fitting(folder, model.actions, {name: value for name, value in weights.items() if name not in new})
    missing, unexpected = model.actions.load_state_dict(kept, strict=False)
    present = {name.partition(".")[0] for name in weights}
    _require(folder, [name for name in missing if name.partition(".")[0] in present and name not in new], unexpected)
