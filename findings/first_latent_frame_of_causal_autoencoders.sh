#!/usr/bin/env bash
# diffusers 0.42.1: "causal" video autoencoders whose first latent frame depends on the frames that come later.
#
# Image-to-video by a clean first latent frame takes for granted that a picture, encoded alone, gives the first latent
# frame of every clip that begins with it. Causal convolutions are not enough: a GroupNorm over [C/groups, T, H, W] takes
# its mean and variance over the whole clip. Seen, with random weights, as a share of the latents' spread between the first
# latent frame of a clip of noise and the latents of its first frame alone:
#   AutoencoderKLWan 0, AutoencoderKLLTXVideo 7e-07
#   AutoencoderKLHunyuanVideo 0.10, AutoencoderKLCogVideoX 0.11
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q diffusers==0.42.1 torch==2.13.0 transformers==5.23.0 numpy==2.4.6
"$place/venv/bin/python" -W ignore - <<'PY'
import diffusers
import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLHunyuanVideo, AutoencoderKLLTXVideo, AutoencoderKLWan

print("diffusers", diffusers.__version__)
torch.manual_seed(0)
four = (8, 8, 8, 8)
networks = {
    "AutoencoderKLWan": AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
    "AutoencoderKLLTXVideo": AutoencoderKLLTXVideo(
        block_out_channels=four, decoder_block_out_channels=four, layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5
    ),
    "AutoencoderKLHunyuanVideo": AutoencoderKLHunyuanVideo(block_out_channels=four, layers_per_block=1, norm_num_groups=2),
    "AutoencoderKLCogVideoX": AutoencoderKLCogVideoX(block_out_channels=four, layers_per_block=1, norm_num_groups=2),
}
leaks = {}
for name, network in networks.items():
    network.eval()
    video = 2 * torch.rand(1, 3, 17, 64, 64, generator=torch.Generator().manual_seed(0)) - 1
    with torch.no_grad():
        whole = network.encode(video).latent_dist.mode()[:, :, :1]
        alone = network.encode(video[:, :, :1]).latent_dist.mode()
    leaks[name] = float((whole - alone).square().mean().sqrt() / whole.std())
    print(f"{name}: {leaks[name]:.1e}")
assert leaks["AutoencoderKLWan"] < 1e-4 and leaks["AutoencoderKLLTXVideo"] < 1e-4
assert leaks["AutoencoderKLHunyuanVideo"] > 0.01 and leaks["AutoencoderKLCogVideoX"] > 0.01
print("as stated")
PY
