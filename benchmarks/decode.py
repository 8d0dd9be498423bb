"""Clips decoded per second: ours, with its limits, rotation and square pixels, against bare PyAV, and torchcodec.

Two sizes: the demo's clips, and a second of 640 x 360 as raw_video meets it. torchcodec is measured where it is
installed (`pip install torchcodec`, and FFmpeg's libraries); it is no dependency.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np

from benchmarks.paired import Figure, ratios
from pipelines.data.video import read_clip, write_mp4

ROUNDS = 5
SIZES = {"17 x 64 x 64": (17, 64, 64, 60), "30 x 360 x 640": (30, 360, 640, 3)}
"""Name to frames, height, width and number of clips."""


def frames(count: int, height: int, width: int, number: int) -> np.ndarray:
    """A soft gradient that drifts, with a little noise: uint8 [T, H, W, 3]."""
    random = np.random.default_rng(number)
    rows, columns = np.mgrid[:height, :width]
    moving = np.stack([np.sin((rows + 3 * frame) / 17) + np.cos((columns - 2 * frame) / 23) for frame in range(count)])
    shown = 127 + 50 * moving[..., None] * random.uniform(0.5, 1, 3) + random.normal(0, 3, (count, height, width, 1))
    return shown.clip(0, 255).astype(np.uint8)


def decode_ours(paths: list[Path]) -> Callable[[], None]:
    """Every clip to uint8 [T, H, W, 3] by the pipeline's reader."""

    def call() -> None:
        for path in paths:
            read_clip(path)

    return call


def decode_pyav(paths: list[Path]) -> Callable[[], None]:
    """The same with nothing around PyAV."""

    def call() -> None:
        for path in paths:
            with av.open(str(path)) as container:
                container.streams.video[0].thread_count = 1
                np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])

    return call


def decode_torchcodec(paths: list[Path]) -> Callable[[], None]:
    """The same with torchcodec, on one thread."""
    from torchcodec.decoders import VideoDecoder  # type: ignore[import-not-found]

    def call() -> None:
        for path in paths:
            decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
            decoder.get_frames_in_range(0, len(decoder))

    return call


def peers() -> dict[str, Callable[[list[Path]], Callable[[], None]]]:
    """What is compared with, by name."""
    found = {"bare PyAV": decode_pyav}
    try:
        importlib.import_module("torchcodec.decoders")
        found["torchcodec"] = decode_torchcodec
    except (ImportError, OSError, RuntimeError) as error:
        print(f"  torchcodec is not compared: {str(error).splitlines()[0]}", flush=True)
    return found


def measure() -> Iterator[Figure]:
    """Decoding figures for each size."""
    against = peers()
    for name, (count, height, width, clips) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{number}.mp4" for number in range(clips)]
            for number, path in enumerate(paths):
                write_mp4(path, frames(count, height, width, number), 8.0)
            for peer, make in against.items():
                found = ratios(make(paths), decode_ours(paths), ROUNDS)
                yield Figure(f"decode speed, {name}", "read_clip", peer, "x clips per second", found, "limit 1")
