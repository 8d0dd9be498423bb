"""Small videos whose frames tell their number and their corners, in any container and codec."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.data.sampled import sample_frames

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)]
X264 = {"crf": "4", "preset": "veryfast"}
WITH_B = {**X264, "bf": "3"}
WANTED = [min(49, int(k / 8 * 25 + 0.5)) for k in range(17)]
"""Numbers of the frames nearest to every eighth of a second, of 50 frames at 25 per second."""


def card(number: int, side: int = 64) -> np.ndarray:
    """Upper half: the eight bits of the number; lower half: red, green, blue, grey."""
    pixels, quarter = np.zeros((side, side, 3), np.uint8), side // 4
    for bit in range(8):
        row, column = bit // 4 * quarter, bit % 4 * quarter
        pixels[row : row + quarter, column : column + quarter] = 255 * (number >> bit & 1)
    for place, color in enumerate(COLORS):
        pixels[2 * quarter :, place * quarter : (place + 1) * quarter] = color
    return pixels


def number(pixels: np.ndarray) -> int:
    """What a card says."""
    quarter = pixels.shape[0] // 4
    places = [(int((bit // 4 + 0.5) * quarter), int((bit % 4 + 0.5) * quarter)) for bit in range(8)]
    return sum(1 << bit for bit, place in enumerate(places) if pixels[place].mean() > 128)


CARDS = [card(number) for number in range(50)]


def write(
    path: Path,
    frames: Iterable[np.ndarray] = CARDS,
    codec: str = "libx264",
    form: str = "yuv420p",
    options: dict[str, str] | None = None,
    *,
    first: int = 0,
    source: str = "rgb24",
    mark: Callable[[Any], None] | None = None,
    shift: Callable[[Any], None] | None = None,
    muxer: dict[str, str] | None = None,
) -> Path:
    """Frames at 25 per second from time ``first`` / 25 on; ``mark`` sees the stream, ``shift`` every packet."""
    with av.open(str(path), "w", options=muxer or {}) as file:
        stream = file.add_stream(codec, rate=25, options=X264 if options is None else options)
        shapes = list(frames)
        stream.height, stream.width, stream.pix_fmt = *shapes[0].shape[:2], form
        stream.codec_context.thread_count = 1
        if mark is not None:
            mark(stream)
        for place, pixels in enumerate(shapes):
            frame = av.VideoFrame.from_ndarray(pixels, format=source)
            frame.pts, frame.time_base = first + place, Fraction(1, 25)
            for packet in stream.encode(frame):
                if shift is not None:
                    shift(packet)
                file.mux(packet)
        for packet in stream.encode(None):
            if shift is not None:
                shift(packet)
            file.mux(packet)
    return path


def numbers(path: Path, rate: float = 8.0) -> list[int | None]:
    """What the sampled cards say; None where there is none."""
    return [None if one is None else number(one) for one in sample_frames(path, rate, (64, 64))]


def copied(source: Path, path: Path, change: Callable[[int, Any], bool], **how: Any) -> Path:
    """The packets of a file in another one, as ``change`` (by place and packet) leaves them; False leaves one out."""
    with av.open(str(source)) as old, av.open(str(path), "w", **how) as new:
        stream = old.streams.video[0]
        made = new.add_stream_from_template(stream)
        for place, packet in enumerate(old.demux(stream)):
            if packet.size and change(place, packet):
                packet.stream = made
                new.mux(packet)
    return path


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """In dB, of 255."""
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((one.astype(float) - other) ** 2))))


def smooth(count: int = 4, side: int = 128) -> Sequence[np.ndarray]:
    """Soft colours that move: chroma at half resolution carries them."""
    y, x = np.mgrid[:side, :side]
    return [
        np.stack(
            [
                127 + 120 * np.sin((x + 3 * k) / 37 + y / 53),
                127 + 120 * np.sin(x / 29 - (y + 2 * k) / 41 + 1),
                127 + 120 * np.cos(x / 61 + y / 23),
            ],
            -1,
        ).astype(np.uint8)
        for k in range(count)
    ]
