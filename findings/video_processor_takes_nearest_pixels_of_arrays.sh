#!/usr/bin/env bash
# diffusers 0.42.1: VideoProcessor resizes frames of Pillow by Lanczos, and the same frames as arrays or tensors by taking
# single pixels, the nearest ones.
#
# The pipelines of Wan, LTX-Video and others hand it `image` and `video` with the wanted height and width, and take all three
# kinds. `resample="lanczos"`, the default, is heard for Pillow's only; numpy's and torch's go to interpolate() in its default
# mode, nearest, and nothing says so. Whoever conditions on decoded frames (PyAV gives arrays) conditions on aliases.
# Seen for rings of 512 pixels made 128, against a smoothed bicubic: 39 dB from Pillow, 9 dB from arrays and tensors.
# Frames of uint8 are taken for ones in [0, 1], besides: "normalised" they reach from -1 to 507.
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q diffusers==0.42.1 torch==2.13.0 transformers==5.23.0 numpy==2.4.6 pillow==13.0.0
"$place/venv/bin/python" -W ignore - <<'PY'
import diffusers
import numpy as np
import torch
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch.nn.functional import interpolate

print("diffusers", diffusers.__version__)
y, x = np.mgrid[:512, :512]
rings = np.repeat(((np.sin((x**2 + y**2) / 300) + 1) * 127.5).astype(np.uint8)[..., None], 3, -1)
tensor = torch.from_numpy(rings).permute(2, 0, 1) / 255
processor = VideoProcessor(vae_scale_factor=8)
assert processor.config.resample == "lanczos"
smooth = 2 * interpolate(tensor[None], (128, 128), mode="bicubic", antialias=True) - 1
nearest = 2 * interpolate(tensor[None], (128, 128)) - 1
found = {}
for name, frame in {"Pillow": Image.fromarray(rings), "array": rings / 255, "tensor": tensor}.items():
    given = processor.preprocess_video([frame, frame], height=128, width=128)[:, :, 0]
    found[name] = float(10 * torch.log10(4 / (given - smooth).square().mean()))
    alike = float((given - nearest).abs().max()) < 1e-5
    print(f"{name}: {found[name]:.1f} dB, the nearest pixels: {alike}")
    assert alike == (name != "Pillow")
bytes_of = processor.preprocess_video([rings, rings], height=128, width=128)
print("uint8:", bytes_of.min().item(), "to", bytes_of.max().item())
assert found["Pillow"] > 35 and found["array"] < 12 and found["tensor"] < 12
assert bytes_of.min() >= -1 and bytes_of.max() > 500
print("as stated")
PY
