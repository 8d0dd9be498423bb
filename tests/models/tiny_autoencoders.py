"""One instance of each autoencoder of diffusers, at a width of a few channels, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models import autoencoders
from torch import nn

FOUR, FLAT = (8, 8, 8, 8), {"norm_num_groups": 4}
IMAGE = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
SIZES: dict[str, dict[str, Any]] = {
    # pictures
    "AsymmetricAutoencoderKL": IMAGE | FLAT | {"down_block_out_channels": [8, 8], "up_block_out_channels": [8, 8]},
    "AutoencoderDC": {
        "latent_channels": 4,
        "attention_head_dim": 4,
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1),
        "encoder_qkv_multiscales": ((), ()),
        "decoder_qkv_multiscales": ((), ()),
        "scaling_factor": 0.41407,
    },
    "AutoencoderKL": IMAGE | FLAT | {"block_out_channels": [8, 8], "scaling_factor": 0.36, "shift_factor": 0.12},
    "AutoencoderKLFlux2": FLAT | {"block_out_channels": FOUR, "latent_channels": 4, "layers_per_block": 1},
    "AutoencoderKLHunyuanImage": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": (32, 32, 32),
        "layers_per_block": 1,
        "spatial_compression_ratio": 4,
        "sample_size": 64,
        "scaling_factor": 0.75,
    },
    "AutoencoderKLKVAE": {
        "channels": 32,
        "num_enc_blocks": 1,
        "num_dec_blocks": 1,
        "z_channels": 4,
        "ch_mult": (1, 1),
    },
    "AutoencoderKLTemporalDecoder": {"down_block_types": ["DownEncoderBlock2D"] * 2, "block_out_channels": [32, 32]},
    "AutoencoderTiny": {
        "encoder_block_out_channels": (8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8),
        "num_encoder_blocks": (1, 1, 1),
        "num_decoder_blocks": (1, 1, 1),
        "scaling_factor": 0.5,
    },
    # clips
    "AutoencoderKLCogVideoX": {
        "block_out_channels": FOUR,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 2,
    },
    "AutoencoderKLCosmos": {
        "latent_channels": 4,
        "encoder_block_out_channels": FOUR,
        "decode_block_out_channels": FOUR,
        "attention_resolutions": (8,),
        "resolution": 64,
        "num_layers": 1,
        "latents_mean": [0.1 * number for number in range(16)],  # 4 channels x 4 latent frames
        "latents_std": [1.0 + 0.1 * number for number in range(16)],
    },
    "AutoencoderKLHunyuanVideo": FLAT | {"latent_channels": 4, "block_out_channels": FOUR, "layers_per_block": 1},
    "AutoencoderKLHunyuanVideo15": {"latent_channels": 4, "block_out_channels": (8,) * 5, "layers_per_block": 1},
    "AutoencoderKLKVAEVideo": {"ch": 32, "ch_mult": (1, 1, 1), "num_res_blocks": 1, "z_channels": 4},
    "AutoencoderKLLTXVideo": {
        "latent_channels": 4,
        "block_out_channels": FOUR,
        "decoder_block_out_channels": FOUR,
        "layers_per_block": (1,) * 5,
        "decoder_layers_per_block": (1,) * 5,
        "decoder_inject_noise": (True,) * 5,
        "scaling_factor": 0.5,
    },
    "AutoencoderKLLTX2Video": {
        "latent_channels": 4,
        "block_out_channels": (8, 16, 32, 64),
        "decoder_block_out_channels": (8, 16, 32),
        "layers_per_block": (1,) * 5,
        "decoder_layers_per_block": (1,) * 4,
    },
    "AutoencoderKLMagvit": FLAT | {"latent_channels": 4, "block_out_channels": FOUR, "layers_per_block": 1},
    "AutoencoderKLMochi": {
        "encoder_block_out_channels": (32,) * 4,
        "decoder_block_out_channels": (32,) * 4,
        "layers_per_block": (1,) * 5,
        "add_attention_block": (False,) * 5,
    },
    "AutoencoderKLQwenImage": {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
    "AutoencoderKLWan": {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
    "Kandinsky6SRVAE": {
        "latent_channels": 4,
        "encoder_block_out_channels": (32,) * 4,
        "decoder_block_out_channels": (32,) * 4,
        "layers_per_block": 1,
    },
    # what cannot be used
    "AutoencoderKLAllegro": {"block_out_channels": FOUR, "norm_num_groups": 2, "layers_per_block": 1},
    "AutoencoderVidTok": {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1},
}


def tiny(kind: str) -> nn.Module:
    """An instance with random weights, and random statistics where the class keeps them beside its config."""
    torch.manual_seed(0)
    network = getattr(autoencoders, kind)(**SIZES[kind]).eval()
    for name, values in network.named_buffers():
        if name in ("latents_mean", "bn.running_mean"):
            values.normal_()
        if name in ("latents_std", "bn.running_var"):
            values.uniform_(0.5, 2.0)
    return network
