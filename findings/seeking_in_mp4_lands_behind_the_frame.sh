#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8.1): seek(pts) in mp4 can land on a key frame that is shown after the frame that was asked for.
#
# seek is said to look back for a key frame, so "seek to its pts, decode until pts >= it" is how frames are read at random.
# mp4's index is in the order of decoding, though. Frames that are shown before a key frame and stored behind it (x265's
# open groups of pictures, its default) cannot be decoded from there: the reader gets the key frame, up to a few frames
# later, in silence. In fragmented mp4 without an edit list the same befalls the last frames before every key frame of
# plain H.264. Matroska is right. Seen, of 60 frames with a key frame every 20:
#   hevc, mp4: asked for 37, 38, 39, got 40          hevc, mkv: none wrong
#   h264, mp4: none wrong                            h264, fragmented mp4: asked for 18, 19, 38, 39, got 20 and 40
# Where the first frame lies behind the wanted one, seeking once more from well before it finds all.
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - "$place" <<'PY'
import sys

import av
import numpy as np

print("PyAV", av.__version__, "libavformat", av.library_versions["libavformat"])
av.logging.set_level(None)
HEVC = "libx265", {"x265-params": "keyint=20:min-keyint=20:scenecut=0:pools=none:frame-threads=1:log-level=none"}
H264 = "libx264", {"g": "20", "bf": "3", "threads": "1", "x264-params": "b-adapt=0:scenecut=0"}


def from_key_frame(file, stream, at, wanted):
    """The time of the first frame that is not before the wanted one, decoded from where seek(at) lands; and where that is."""
    file.seek(at, stream=stream)
    first = None
    for frame in file.decode(stream):
        first = frame.pts if first is None else first
        if frame.pts >= wanted:
            return frame.pts, first
    raise AssertionError("no such frame")


def wrong(coder, ending, **options):
    """{number asked for: number got}, by one seek and by a second one from further back."""
    name, settings = coder
    path = f"{sys.argv[1]}/a.{ending}"
    with av.open(path, "w", options=options) as file:
        stream = file.add_stream(name, rate=25, options=settings)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(60):
            grey = np.full((64, 64, 3), 20 + 3 * number, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        file.mux(stream.encode(None))
    with av.open(path) as file:
        stream = file.streams.video[0]
        stream.thread_type = "NONE"
        times = [frame.pts for frame in file.decode(stream)]
        assert len(times) == 60 and times == sorted(times), "decoded from the begin, all frames are there"
        once, twice = {}, {}
        for number, time in enumerate(times):
            got, first = from_key_frame(file, stream, time, time)
            if got != time:
                once[number] = times.index(got)
                got, _ = from_key_frame(file, stream, time - 2 * (first - time) - 8 * (times[1] - times[0]), time)
            if got != time:
                twice[number] = times.index(got)
    print(f"{name}, {options.get('movflags', 'whole')} {ending}: asked for and got {once}; after a second seek {twice}")
    assert twice == {}
    return once


mp4, mkv = wrong(HEVC, "mp4"), wrong(HEVC, "mkv")
whole, fragments = wrong(H264, "mp4"), wrong(H264, "mp4", movflags="frag_keyframe+empty_moov")
assert mkv == whole == {}
assert mp4 and all(got % 20 == 0 and 0 < got - asked <= 4 for asked, got in mp4.items())
assert fragments == {18: 20, 19: 20, 38: 40, 39: 40}
print("as stated")
PY
