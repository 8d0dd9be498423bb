#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8.1): VideoFrame.to_ndarray(format="rgb24") of 4:2:0 video is darker than the video by more than
# one level of 255 on average, and pairs of columns share their colour.
#
# FFmpeg's default converter rounds down and takes the nearest chroma sample. Neither a scaling method nor
# FULL_CHR_H_INT alone changes that where the size stays the same; ACCURATE_RND does, and is about ten times slower to
# packed rgb24 than by way of planar gbrp. Seen on a smooth colour card: 41 dB and a mean of -1.2 levels against 52 dB
# and -0.0. Whoever trains on frames read this way trains on darker ones.
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

print("PyAV", av.__version__, "libswscale", av.library_versions["libswscale"])
y, x = np.mgrid[:360, :640]
card = [127 + 120 * np.sin(x / 37 + y / 53), 127 + 120 * np.sin(x / 29 - y / 41 + 1), 127 + 120 * np.cos(x / 61 + y / 23)]
card = np.stack(card, -1).astype(np.uint8)
exact = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND
frame = VideoReformatter().reformat(
    av.VideoFrame.from_ndarray(card, format="rgb24"), format="yuv420p", interpolation=exact,
    dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG,
)
found = {}
ways = {
    "to_ndarray": {},
    "FULL_CHR_H_INT": {"interpolation": Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT},
    "ACCURATE_RND too": {"interpolation": exact},
}
for name, how in ways.items():
    pixels = frame.to_ndarray(format="rgb24", **how).astype(float)
    found[name] = 10 * np.log10(255**2 / np.mean((pixels - card) ** 2)), pixels.mean() - card.mean()
    print(f"{name}: {found[name][0]:.1f} dB, mean {found[name][1]:+.2f}")
assert found["to_ndarray"][0] < 43 and found["to_ndarray"][1] < -1
assert found["FULL_CHR_H_INT"][0] < 43
assert found["ACCURATE_RND too"][0] > 50 and abs(found["ACCURATE_RND too"][1]) < 0.1
print("as stated")
PY
