"""Checkpoints in the format of the published ones, at a width of a few channels, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def wan(channels: int = 4, text_dim: int = 8, seed: int = 0, **changes: Any) -> WanTransformer3DModel:
    """Wan's text-to-video transformer."""
    torch.manual_seed(seed)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 2, "freq_dim": 16}
    return WanTransformer3DModel(
        **{"in_channels": channels, "out_channels": channels, "text_dim": text_dim, **sizes, **changes}
    ).eval()


def ltx(channels: int = 4, text_dim: int = 8, seed: int = 0, **changes: Any) -> LTXVideoTransformer3DModel:
    """LTX-Video's transformer."""
    torch.manual_seed(seed)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "cross_attention_dim": 24, "num_layers": 2}
    network = LTXVideoTransformer3DModel(
        **{"in_channels": channels, "out_channels": channels, "caption_channels": text_dim, **sizes, **changes}
    )
    return network.eval()


def wan_vae(channels: int = 4) -> AutoencoderKLWan:
    """Wan's autoencoder: 4 frames and 8 x 8 pixels to a latent element."""
    torch.manual_seed(1)
    statistics: Any = {"latents_mean": [0.1 * n for n in range(channels)], "latents_std": [1.5] * channels}
    return AutoencoderKLWan(base_dim=4, z_dim=channels, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **statistics).eval()


def ltx_vae(channels: int = 4) -> AutoencoderKLLTXVideo:
    """LTX-Video's autoencoder: 8 frames and 32 x 32 pixels to a latent element."""
    torch.manual_seed(1)
    network = AutoencoderKLLTXVideo(
        latent_channels=channels,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    return network.eval()


def save(folder: Path, transformer: Any, vae: Any | None = None) -> Path:
    """The parts of a pipeline folder that training reads: ``transformer/`` and the config of ``vae/``."""
    transformer.save_pretrained(folder / "transformer")
    if vae is not None:
        (folder / "vae").mkdir()
        config = {key: value for key, value in vae.config.items() if not key.startswith("_")}
        text = json.dumps({"_class_name": type(vae).__name__, **config}, default=list)
        (folder / "vae" / "config.json").write_text(text)
    return folder


def block(folder: Path, lora: bool = True, text_length: int = 6, **changes: Any) -> dict[str, Any]:
    """``denoiser:`` as params.yaml states it."""
    named = {"name": str(folder), "revision": None, "subfolder": "transformer", "weights": "fp32"}
    trained: Any = {"lora": {"rank": 2, "alpha": 4.0, "targets": TARGETS}} if lora else "full"
    return {
        "pretrained": {**named, **changes},
        "trained": trained,
        "text_length": text_length,
    }
