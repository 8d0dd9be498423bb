"""Reading back what :class:`pipelines.data.video.Mp4` wrote, at half the cost of reading any video.

A training reads its clips many times, and has written each itself: one stream of H.264 with rising times, a frame for
every packet, whole and upright. What is otherwise in any way, or damaged, is none of these files; then
:func:`pipelines.data.video.read_clip` reads it, or says what is wrong with it. Both give the same pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame

from pipelines.data.containers import decoder_of
from pipelines.data.limits import Limits, VideoError
from pipelines.data.picture import Converter
from pipelines.data.upright import AS_STORED, upright

HEAD = {"protocol_whitelist": "file", "probesize": "32"}
"""The head says all of such a file: nothing is decoded before the first frame is wanted."""
CODEC = "h264"


def read_written(path: Path, num_frames: int, height: int, width: int) -> np.ndarray | None:
    """The frames of such a file, uint8 [T, H, W, 3], RGB, a view of memory [3, T, H, W]; None: it is none, or damaged.

    A network takes its channels first, so they lie that way.
    """
    pixels, count, converter = np.empty((3, num_frames, height, width), np.uint8), 0, Converter(CODEC)
    try:
        with av.open(f"file:{path}", format="mov", options=HEAD) as container:
            for frame in _frames(container):
                if frame is None or count == num_frames or (frame.height, frame.width) != (height, width):
                    return None
                converter.planes(frame, pixels[:, count])
                count += 1
    except (av.FFmpegError, OSError, VideoError):
        return None
    return np.moveaxis(pixels, 0, -1) if count == num_frames else None


def _frames(container: InputContainer) -> Iterator[VideoFrame | None]:
    """Every frame; None where something is not as in a file of ours, and nothing after it."""
    streams, last = container.streams, -1
    if len(streams) != 1 or not streams.video or streams.video[0].codec_context.name != CODEC:
        yield None
        return
    decoder = decoder_of(streams.video[0], Limits())
    for packet in container.demux(streams.video[0]):
        if packet.is_corrupt:
            yield None
        for frame in decoder.decode(packet if packet.size else None):
            is_whole = (
                not frame.is_corrupt and not frame.interlaced_frame and (last >= 0 or upright(frame) == AS_STORED)
            )
            is_later = frame.pts is not None and frame.pts > last
            yield frame if is_whole and is_later else None
            last = frame.pts or 0
