#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8.1): H.264 with B-frames in AVI is decoded in the right order, with times that go back and forth.
#
# AVI states one time per packet, in the order of decoding. FFmpeg makes presentation times of them by adding one frame,
# so frame.pts is the time of the frame's packet: 1 2 3 5 6 4 8 7 … for frames that are shown one after another. A reader
# that takes the frame nearest to a time gets wrong ones and gaps. frame.dts (or the i-th packet's time for the i-th
# frame) rises as it should.
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
path = f"{sys.argv[1]}/a.avi"
with av.open(path, "w") as file:
    stream = file.add_stream("libx264", rate=25, options={"bf": "3", "x264-params": "b-adapt=0"})
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
    for level in range(10, 250, 8):
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), level, np.uint8), format="rgb24")))
    file.mux(stream.encode(None))
with av.open(path) as file:
    file.streams.video[0].thread_type = "NONE"
    frames = [(frame.pts, frame.dts, int(frame.to_ndarray(format="rgb24").mean())) for frame in file.decode(video=0)]
print("pts ", [pts for pts, _, _ in frames])
print("grey", [grey for _, _, grey in frames])
assert all(np.diff([grey for _, _, grey in frames]) > 0), "order of showing"
assert all(np.diff([dts for _, dts, _ in frames if dts is not None]) > 0)
assert any(np.diff([pts for pts, _, _ in frames]) < 0), "times go back"
print("as stated")
PY
