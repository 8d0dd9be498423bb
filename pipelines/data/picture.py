"""One decoded frame as it is meant to be seen: upright, in square pixels, opaque, in eight bits.

Conversions run on the calling thread: FFmpeg otherwise starts a thread per core for every frame, which costs several
times what converting a small frame does, and clips are decoded side by side anyway. Chroma is interpolated to full
resolution and rounded exactly: FFmpeg's shortcuts darken every picture and share a colour between two columns. The way
leads over planes (gbrp), because FFmpeg has no fast exact way to packed pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from pipelines.data import color
from pipelines.data.limits import VideoError
from pipelines.data.upright import AS_STORED, Upright

MOST_CROPPED = 32
"""Of this many pixels at least one must remain after cropping."""
EXACT = Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND
MOST_FORMS = 16
"""Tables of FFmpeg's that a converter keeps, one set per form and size."""


class _Way:
    """How frames of one form become RGB of one size: FFmpeg's tables, made once, and what to read them as."""

    def __init__(self, frame: VideoFrame, size: tuple[int, int], method: Interpolation, codec: str) -> None:
        self.height, self.width = size
        self.method = int(method | EXACT)
        self.matrix, self.range = color.matrix(frame, codec), color.known_range(frame)
        self.transfer = frame.color_trc if color.is_hdr(frame) else None
        self.has_alpha = any(part.is_alpha for part in frame.format.components)
        self._to_planes, self._to_pixels = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        if self.transfer is not None:
            return color.tone_mapped(self._made(frame, "gbrp16le").to_ndarray(), self.transfer)
        return self._to_pixels.reformat(self.separated(frame), format="rgb24", threads=1).to_ndarray()

    def separated(self, frame: VideoFrame) -> VideoFrame:
        """Its green, blue and red as planes."""
        return self._made(frame, "gbrp")

    def opaque(self, frame: VideoFrame) -> VideoFrame:
        """The frame over black."""
        pixels = self._made(frame, "rgba").to_ndarray().astype(np.uint16)
        blended = (pixels[..., :3] * pixels[..., 3:] + 127) // 255
        return VideoFrame.from_ndarray(blended.astype(np.uint8), format="rgb24")

    def _made(self, frame: VideoFrame, form: str) -> VideoFrame:
        return self._to_planes.reformat(
            frame,
            width=self.width,
            height=self.height,
            format=form,
            interpolation=self.method,
            src_colorspace=self.matrix,
            src_color_range=self.range,
            threads=1,
        )


class Converter:
    """Converts the frames of one stream: FFmpeg's tables, which cost more than a small frame, are made once.

    They are kept per form and size, because they keep the colours of the frames before and are made anew for another
    size. ``codec`` decides what untagged colours mean.
    """

    def __init__(self, codec: str = "") -> None:
        self.codec = codec
        self._kept: dict[tuple[object, ...], _Way] = {}

    def _way(self, frame: VideoFrame, size: tuple[int, int], method: Interpolation) -> _Way:
        form = frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range, frame.color_trc
        found = self._kept.get((form, size, method))
        if found is None:
            if len(self._kept) >= MOST_FORMS:
                self._kept.clear()
            found = self._kept[form, size, method] = _Way(frame, size, method, self.codec)
        return found

    def __call__(self, frame: VideoFrame, size: tuple[int, int], method: Interpolation) -> np.ndarray:
        """uint8 [H, W, 3], RGB, of ``size`` (height, width); over black where it is transparent.

        Raises:
            VideoError: the frame's format or colours cannot be converted.
        """
        try:
            way = self._way(frame, size, method)
            if way.has_alpha:
                stored = (frame.height, frame.width)
                frame = self._way(frame, stored, Interpolation.X).opaque(frame)
                way = self._way(frame, size, method)
            return way(frame)
        except VideoError:
            raise
        except (av.FFmpegError, ValueError) as error:
            raise VideoError("decode_error", f"{frame.format.name} frames: {error}") from None

    def planes(self, frame: VideoFrame, into: np.ndarray) -> None:
        """Red, green and blue of an opaque frame of eight bits, as it is stored, into uint8 [3, H, W].

        Raises:
            VideoError: the frame has more than that, or cannot be converted.
        """
        stored = (frame.height, frame.width)
        way = self._way(frame, stored, Interpolation.BILINEAR)
        if way.has_alpha or way.transfer is not None:
            raise VideoError("decode_error", f"{frame.format.name} frames have more than three planes of eight bits")
        planes: Any = way.separated(frame).planes  # each a buffer, which PyAV's types do not say
        for channel, plane in zip((1, 2, 0), planes, strict=True):
            into[channel] = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: stored[0], : stored[1]]


@dataclass(slots=True)
class Picture:
    """A frame, what makes it upright, the width of its pixels (height 1), and seconds since the first of its video."""

    frame: VideoFrame
    upright: Upright = AS_STORED
    aspect: Fraction = Fraction(1)
    converted: Converter = field(default_factory=Converter)
    seconds: float = 0.0
    resized: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) upright, in square pixels."""
        width, height = self._square_width(), self.frame.height
        return (width, height) if self.upright.turns % 2 else (height, width)

    def _square_width(self) -> int:
        return self.frame.width if self.aspect == 1 else max(1, round(self.frame.width * self.aspect))

    def pixels(self) -> np.ndarray:
        """The stored pixels, upright: uint8 [H, W, 3], RGB.

        Raises:
            VideoError: they cannot be converted.
        """
        stored = (self.frame.height, self.frame.width)
        return self.upright(self.converted(self.frame, stored, Interpolation.BILINEAR))

    def whole(self, height: int, width: int) -> np.ndarray:
        """uint8 [H, W, 3], RGB: all of it, resized until ``height`` and ``width`` are covered.

        Raises:
            VideoError: as :meth:`cover`.
        """
        tall, wide = (width, height) if self.upright.turns % 2 else (height, width)
        return self.upright(self._covering(tall, wide))

    def cover(self, height: int, width: int) -> np.ndarray:
        """uint8 [height, width, 3], RGB: resized until both sides are covered, then cropped about the centre.

        Raises:
            VideoError: the frame is so long and thin that covering would cost MOST_CROPPED times the memory, or its
                format cannot be converted.
        """
        tall, wide = (width, height) if self.upright.turns % 2 else (height, width)
        resized = self._covering(tall, wide)
        top, left = (resized.shape[0] - tall) // 2, (resized.shape[1] - wide) // 2
        return self.upright(resized[top : top + tall, left : left + wide])

    def _covering(self, tall: int, wide: int) -> np.ndarray:
        """Resized as stored; the last one is kept, because shots are told by what clips are cropped from."""
        full_height, full_width = self.frame.height, self._square_width()
        scale = max(tall / full_height, wide / full_width)
        size = max(tall, round(full_height * scale)), max(wide, round(full_width * scale))
        if size[0] * size[1] > MOST_CROPPED * tall * wide:
            raise VideoError("too_elongated", f"{full_width}x{full_height} square pixels, for clips of {wide}x{tall}")
        if self.resized is None or self.resized.shape[:2] != size:
            method = Interpolation.AREA if scale < 1 else Interpolation.BICUBIC
            self.resized = self.converted(self.frame, size, method)
        return self.resized
