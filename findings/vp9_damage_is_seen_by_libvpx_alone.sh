#!/usr/bin/env bash
# FFmpeg's own VP9 decoder takes damaged frames for whole ones; libvpx, in the same library, refuses them.
#
# Why it matters: VP9's arithmetic code has no checksum, but a frame whose data was changed hardly ever ends where the
# frame ends. libvpx looks (a tile's data that is read beyond, or bytes left behind the last tile, are an error); FFmpeg's
# native decoder, which every program gets by default, decodes on into garbage, with no error, no flag and no log line,
# whatever err_detect says. Both decode undamaged files to equal pixels at about equal cost (libvpx 4 % slower here).
# libvpx's build in PyAV's wheels reads eight bits only, so it cannot take over for HDR files.
#
# Seen with av 18.1.0 (libavcodec 62.28): six wrong bytes in each of 16 copies of a file of 60 frames:
#   vp9         with explode+crccheck+bitstream+buffer+aggressive:  0 of 16 noticed, 12 or more show wrong frames
#   libvpx-vp9: at least 14 of 16 noticed, none shows a wrong frame
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.0
cd "$place"
cat > try.py <<'PY'
import random
import sys
from fractions import Fraction

import av
import numpy as np
from av.codec import CodecContext

av.logging.set_level(None)
blocks = np.kron(np.random.default_rng(5).integers(0, 256, (24, 24, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
with av.open("whole.webm", "w") as file:
    stream = file.add_stream("libvpx-vp9", rate=25, options={"crf": "20", "b": "0", "cpu-used": "8", "deadline": "realtime", "g": "30"})
    stream.width = stream.height = 192
    stream.pix_fmt = "yuv420p"
    stream.codec_context.thread_count = 1
    for number in range(60):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.roll(blocks, 3 * number, 1)), format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 25)
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


def decoded(path, name):
    """The frames, and whether anything was said of damage."""
    frames, noticed = [], False
    with av.open(path) as file:
        decoder = CodecContext.create(name, "r")
        decoder.options = {"err_detect": "explode+crccheck+bitstream+buffer+aggressive"}
        decoder.thread_count = 1
        for packet in file.demux(video=0):
            try:
                for frame in decoder.decode(packet if packet.size else None):
                    noticed = noticed or frame.is_corrupt
                    frames.append(frame.to_ndarray(format="rgb24"))
            except av.EOFError:
                pass
            except av.FFmpegError:
                noticed = True
    return frames, noticed


whole = open("whole.webm", "rb").read()
right = decoded("whole.webm", "vp9")[0]
equal = all((one == other).all() for one, other in zip(right, decoded("whole.webm", "libvpx-vp9")[0], strict=True))
counts = {}
for name in ("vp9", "libvpx-vp9"):
    noticed = wrong = 0
    for trial in range(16):
        content = bytearray(whole)
        at = random.Random(trial).randrange(len(whole) // 10, len(whole) * 9 // 10)
        for place in range(6):
            content[at + place] ^= 0x55
        open("broken.webm", "wb").write(content)
        frames, said = decoded("broken.webm", name)
        noticed += said
        wrong += not said and any(np.abs(one.astype(int) - other).mean() > 3 for one, other in zip(frames, right))
    counts[name] = noticed, wrong
    print(f"{name}: {noticed} of 16 noticed, {wrong} not noticed show wrong frames")
print("undamaged, both decoders give equal pixels:", equal)
sys.exit(not (equal and counts["vp9"][0] == 0 and counts["vp9"][1] >= 8 and counts["libvpx-vp9"][0] >= 14))
PY
"$place/venv/bin/python" try.py
