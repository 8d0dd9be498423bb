#!/usr/bin/env bash
# torch 2.13.0 on processors: GroupNorm of a tensor in channels_last (or channels_last_3d) loses the variance that the same
# tensor keeps in the usual layout.
#
# The contiguous kernel sums squares of differences from a running mean; the one for channels_last takes E[x^2] - E[x]^2 in
# single precision. channels_last is what speeds up convolutions, so an autoencoder of video that was moved to it
# normalises by another number wherever a group's mean is large beside its spread. Seen, as the greatest error of the
# normalised values against double precision, for clips of spread 1 and mean 0, 30, 100, 300 and 1000, of five draws:
#   usual layout      7e-07, 2e-06, 8e-06, 3e-05, 7e-05
#   channels_last_3d  3e-06, 6e-03, 5e-02, 4e-01, 2e+03
# Where the difference falls below zero, values are divided by the root of eps alone, hence the last one. It is alike with
# AVX-512, AVX2 and neither (ATEN_CPU_CAPABILITY). `.contiguous()` before the layer, or taking a mean off first, helps.
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$place/venv/bin/python" -W ignore - <<'PY'
import torch
from torch.nn.functional import group_norm

print("torch", torch.__version__, torch.backends.cpu.get_cpu_capability())
torch.set_num_threads(1)
for name, shape, layout in (
    ("channels_last", (2, 64, 64, 64), torch.channels_last),
    ("channels_last_3d", (1, 64, 8, 32, 32), torch.channels_last_3d),
):
    for mean in (0, 30, 100, 300, 1000):
        found = []
        for seed in range(5):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + mean
            right = group_norm(x.double(), 8)
            in_layout = group_norm(x.contiguous(memory_format=layout), 8)
            assert in_layout.is_contiguous(memory_format=layout)
            found.append([float((made - right).abs().max()) for made in (group_norm(x, 8), in_layout)])
        usual, other = (max(errors) for errors in zip(*found, strict=True))
        print(f"{name}, mean {mean}: usual layout {usual:.0e}, this one {other:.0e}")
        assert usual < 1e-3
        assert other < 1e-5 if mean == 0 else other > 100 * usual
        assert mean < 300 or other > 0.05
print("as stated")
PY
