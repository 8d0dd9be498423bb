#!/usr/bin/env bash
# PyAV: a frame with side data of a kind that PyAV has no name for gives none of its side data, but a ValueError.
#
# Why it matters: FFmpeg 8 hands on the EXIF of a JPEG as side data of the frame (AV_FRAME_DATA_EXIF, number 31). Motion
# JPEG of cameras has it in every frame. `frame.side_data` then raises "31 is not a valid Type", for the display matrix
# beside it, too, so that a program which turns frames upright stops at such a file. `frame.rotation` reads the
# matrix without going through that list, and still works (it says the angle, and not whether the frame is mirrored).
#
# Seen with av 18.1.0 (libavutil 60.26): ValueError for side_data, rotation -90 for EXIF orientation 6.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.0 pillow==12.0.0
cd "$place"
cat > try.py <<'PY'
import io
import sys
from fractions import Fraction

import av
from PIL import Image

exif = Image.Exif()
exif[0x0112], exif[0x010F] = 6, "maker"
held = io.BytesIO()
Image.new("RGB", (64, 48), (200, 30, 30)).save(held, "JPEG", exif=exif)
with av.open("camera.avi", "w") as file:
    stream = file.add_stream("mjpeg", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
    for number in range(5):
        packet = av.Packet(held.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
        packet.is_keyframe = True
        file.mux(packet)
with av.open("camera.avi") as file:
    frame = next(file.decode(video=0))
try:
    said = f"gives {[one.type for one in frame.side_data]}"
except ValueError as error:
    said = f"ValueError: {error}"
print("side_data:", said)
print("rotation:", frame.rotation)
sys.exit(not (said == "ValueError: 31 is not a valid Type" and frame.rotation == -90))
PY
"$place/venv/bin/python" try.py
