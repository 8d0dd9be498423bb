#!/usr/bin/env bash
# Pillow 13.0.0: Image.quantize(kmeans=k) does not run k rounds of k-means; it stops when fewer than k pixels change colour.
#
# The documentation says only "an integer greater than or equal to zero". Read as a number of rounds, a larger one should
# fit the colours better; it does the opposite: 1 runs until no pixel changes (best and slowest),
# 1000 gives up after the first rounds, 0 runs none. Fast octree takes the argument and does nothing with it.
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q pillow==13.0.0 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import numpy as np
import PIL
from PIL import Image

print("pillow", PIL.__version__)
rows, columns = np.mgrid[0:96, 0:96] / 95
smooth = np.stack([columns, rows, (columns + rows) / 2], -1) * 255
pixels = (smooth + np.random.default_rng(0).normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
picture = Image.fromarray(pixels)


def error(method, kmeans):
    """Mean squared error of 32 colours."""
    made = picture.quantize(32, method=method, kmeans=kmeans, dither=Image.Dither.NONE).convert("RGB")
    return float(((np.asarray(made, float) - pixels) ** 2).mean())


for method in Image.Quantize.MEDIANCUT, Image.Quantize.MAXCOVERAGE, Image.Quantize.FASTOCTREE:
    print(method.name, {k: round(error(method, k), 1) for k in (0, 1, 100, 1000)})
for method in Image.Quantize.MEDIANCUT, Image.Quantize.MAXCOVERAGE:
    assert error(method, 1) < error(method, 100) < error(method, 1000) < error(method, 0)
assert len({error(Image.Quantize.FASTOCTREE, k) for k in (0, 1, 100, 1000)}) == 1
print("as stated")
PY
