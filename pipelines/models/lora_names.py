"""A LoRA under the key names of the models' own authors, which ComfyUI reads: ``diffusion_model.`` before each.

ComfyUI takes ``diffusion_model.<layer>.lora_A.weight`` where ``<layer>`` is what the layer is called in the network as
its authors published it. LTX-Video's blocks are called so in diffusers too; Wan's are not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipelines.models.lora import FILE, METADATA, PREFIX
from pipelines.stage import StageError

COMFY = "comfyui_lora.safetensors"
WAN = (
    (r"^(blocks\.\d+)\.attn1\.to_(q|k|v)$", r"\1.self_attn.\2"),
    (r"^(blocks\.\d+)\.attn1\.to_out\.0$", r"\1.self_attn.o"),
    (r"^(blocks\.\d+)\.attn2\.to_(q|k|v)$", r"\1.cross_attn.\2"),
    (r"^(blocks\.\d+)\.attn2\.to_out\.0$", r"\1.cross_attn.o"),
    (r"^(blocks\.\d+)\.attn2\.add_(k|v)_proj$", r"\1.cross_attn.\2_img"),
    (r"^(blocks\.\d+)\.ffn\.net\.0\.proj$", r"\1.ffn.0"),
    (r"^(blocks\.\d+)\.ffn\.net\.2$", r"\1.ffn.2"),
    (r"^condition_embedder\.text_embedder\.linear_1$", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2$", "text_embedding.2"),
    (r"^condition_embedder\.time_embedder\.linear_1$", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2$", "time_embedding.2"),
    (r"^condition_embedder\.time_proj$", "time_projection.1"),
    (r"^proj_out$", "head.head"),
)
"""Layers of diffusers' WanTransformer3DModel, and what Wan's authors call them."""
LTX = (
    (r"^(transformer_blocks\.\d+\..+)$", r"\1"),
    (r"^proj_in$", "patchify_proj"),
    (r"^time_embed\.(.+)$", r"adaln_single.\1"),
    (r"^(caption_projection\..+|proj_out)$", r"\1"),
)
"""Layers of diffusers' LTXVideoTransformer3DModel, and what LTX-Video's authors call them."""
NAMES = {"WanTransformer3DModel": WAN, "LTXVideoTransformer3DModel": LTX}


def published_name(layer: str, kind: str) -> str:
    """What the authors of a network call a layer of it.

    Raises:
        StageError: this layer has no counterpart of one name.
    """
    for pattern, replacement in NAMES[kind]:
        found, count = re.subn(pattern, replacement, layer)
        if count:
            return found
    raise StageError(f"lora: layer {layer} of a {kind} is called nothing in ComfyUI.")


def comfy_state(tensors: Mapping[str, Tensor], config: Mapping[str, object], kind: str) -> dict[str, Tensor]:
    """The tensors of a LoRA file of diffusers under ComfyUI's names, with alpha / rank multiplied into B.

    ComfyUI scales by an ``alpha`` key and by nothing where there is none, diffusers by the file's metadata: with the
    scale in the weights all readers agree.
    """
    rank, alpha = config[f"{PREFIX}.r"], config[f"{PREFIX}.lora_alpha"]
    assert isinstance(rank, int) and isinstance(alpha, int | float)
    found = {}
    for name, tensor in tensors.items():
        layer, part = name.removeprefix(f"{PREFIX}.").split(".lora_")
        scale = alpha / rank if part.startswith("B") else 1.0
        found[f"diffusion_model.{published_name(layer, kind)}.lora_{part}"] = (tensor * scale).contiguous()
    return found


def write_comfy(folder: Path, kind: str, out: Path) -> Path:
    """The LoRA of a folder as a file for ComfyUI.

    Raises:
        StageError: a layer has no name there.
    """
    with safe_open(folder / FILE, "pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        config = json.loads(stream.metadata()[METADATA])
    save_file(comfy_state(tensors, config, kind), out / COMFY)
    return out / COMFY
