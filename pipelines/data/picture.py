"""One decoded frame as it is meant to be seen: upright, in square pixels, opaque, in eight bits.

Conversions run on the calling thread: FFmpeg otherwise starts a thread per core for every frame, which costs several
times what converting a small frame does, and clips are decoded side by side anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from pipelines.data.limits import VideoError

MOST_CROPPED = 32
"""Of this many pixels at least one must remain after cropping."""


def _has_alpha(frame: VideoFrame) -> bool:
    return any(part.is_alpha for part in frame.format.components)


def opaque(frame: VideoFrame) -> VideoFrame:
    """The frame over black, where it is transparent; itself, where its format knows no transparency."""
    if not _has_alpha(frame):
        return frame
    pixels = frame.to_ndarray(format="rgba", threads=1).astype(np.uint16)
    blended = (pixels[..., :3] * pixels[..., 3:] + 127) // 255
    return VideoFrame.from_ndarray(blended.astype(np.uint8), format="rgb24")


class Converter:
    """Converts the frames of one stream: FFmpeg's tables, which cost more than a small frame, are made once.

    They are made anew when the form of the frames changes, because they keep the colours of those before.
    """

    def __init__(self) -> None:
        self._form: tuple[object, ...] = ()
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame, **how: Any) -> np.ndarray:
        """uint8 [H, W, 3], RGB; ``how``: size and interpolation, as of PyAV's ``reformat``."""
        form = (frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range)
        if form != self._form:
            self._form, self._reformatter = form, VideoReformatter()
        return self._reformatter.reformat(frame, format="rgb24", threads=1, **how).to_ndarray()


@dataclass(frozen=True)
class Picture:
    """A frame, the anticlockwise quarter turns that make it upright, and the width of its pixels (height 1)."""

    frame: VideoFrame
    turns: int = 0
    aspect: Fraction = Fraction(1)
    converted: Converter = field(default_factory=Converter)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) upright, in square pixels."""
        width, height = max(1, round(self.frame.width * self.aspect)), self.frame.height
        return (width, height) if self.turns % 2 else (height, width)

    def pixels(self) -> np.ndarray:
        """The stored pixels, upright: uint8 [H, W, 3], RGB."""
        return np.ascontiguousarray(np.rot90(self.converted(opaque(self.frame)), self.turns))

    def cover(self, height: int, width: int) -> np.ndarray:
        """uint8 [height, width, 3], RGB: resized until both sides are covered, then cropped about the centre.

        Raises:
            VideoError: the frame is so long and thin that covering would cost MOST_CROPPED times the memory, or its
                format cannot be converted.
        """
        tall, wide = (width, height) if self.turns % 2 else (height, width)
        full_height, full_width = self.frame.height, max(1, round(self.frame.width * self.aspect))
        scale = max(tall / full_height, wide / full_width)
        new_height, new_width = max(tall, round(full_height * scale)), max(wide, round(full_width * scale))
        if new_height * new_width > MOST_CROPPED * tall * wide:
            raise VideoError("too_elongated", f"{full_width}x{full_height} square pixels, for clips of {wide}x{tall}")
        method = Interpolation.AREA if scale < 1 else Interpolation.BICUBIC
        try:
            resized = self.converted(opaque(self.frame), width=new_width, height=new_height, interpolation=method)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError("decode_error", f"{self.frame.format.name} frames: {error}") from None
        top, left = (new_height - tall) // 2, (new_width - wide) // 2
        return np.ascontiguousarray(np.rot90(resized[top : top + tall, left : left + wide], self.turns))
