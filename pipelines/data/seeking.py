"""Reading a file from a late time on, without what comes before it."""

from __future__ import annotations

from av.container import InputContainer
from av.video.stream import VideoStream

SEEKABLE = ("mov", "matroska")
"""Containers with an index and times that do not start again."""
LATE_SECONDS = 10.0
"""A start that is later than this is sought."""


def seek(container: InputContainer, stream: VideoStream, wanted: int, first: int) -> None:
    """To a key frame that is shown no later than the wanted time; ``first``: the first frame's time.

    MP4 is searched by times of decoding: a key frame that is decoded before the wanted time may be shown after it (open
    groups of pictures, fragments without an edit list), and what is shown between cannot be decoded from there.
    """
    at = wanted
    while True:
        container.seek(at, stream=stream)
        key = next((packet for packet in container.demux(stream) if packet.is_keyframe), None)
        if key is None or key.pts is None or key.pts <= wanted or at < first:
            break
        at -= key.pts - at
    container.seek(at, stream=stream)  # the key frame's packet was taken
