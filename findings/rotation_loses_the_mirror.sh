#!/usr/bin/env bash
# PyAV 18.1.0: VideoFrame.rotation cannot tell mirrored footage (front cameras) from turned footage.
#
# The property is the angle of the display matrix alone. A matrix that mirrors left and right has the angle 180, one that
# mirrors top and bottom 0: turned by them, frames stand on their heads, or stay mirrored. The matrix itself is in
# frame.side_data (DISPLAYMATRIX, nine 32-bit integers).
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - "$place" <<'PY'
import sys

import av
import numpy as np

print("PyAV", av.__version__)
found = {}
for name, how in {"turned 180": {"degrees": 180}, "left-right": {"degrees": 0, "hflip": True}, "top-bottom": {"degrees": 0, "vflip": True}}.items():
    path = f"{sys.argv[1]}/a.mp4"
    with av.open(path, "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.set_display_rotation(**how)
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        file.mux(stream.encode(None))
    with av.open(path) as file:
        frame = next(file.decode(video=0))
    matrix = next(bytes(one) for one in frame.side_data if one.type.name == "DISPLAYMATRIX")
    a, b, _, c, d = (np.frombuffer(matrix, np.int32)[:5] / 65536).round().astype(int).tolist()
    found[name] = abs(frame.rotation), (a, b, c, d)
    print(f"{name}: rotation {found[name][0]}, matrix {found[name][1]}")
assert found["left-right"][0] == found["turned 180"][0] == 180 and found["top-bottom"][0] == 0
assert found["left-right"][1] != found["turned 180"][1] and found["top-bottom"][1] == (1, 0, 0, -1)
print("as stated")
PY
