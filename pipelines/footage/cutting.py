"""Cutting a stream of pictures into clips: runs without gap or shot boundary, forms chosen to lose few pixels.

A form keeps of a frame the share of the picture that is inside its crop, times the pixels that this is stored with: at
most its own and at most those of the source, because enlarging adds nothing. Of forms with equally many frames the
one that keeps most is taken. Along a run, the form that keeps most per frame (the longest of equals) leads; the last
stretch of a run, up to two of the longest clips, is cut as loses fewest pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np

from pipelines.data.limits import VideoError
from pipelines.data.video import Seen
from pipelines.footage import shots
from pipelines.footage.cutting_params import Buckets, Cutting
from pipelines.footage.params import Clip

Form = tuple[int, int, int]
"""Frames, height, width."""
Size = tuple[int, int]
SMALL = 32
"""Least side of a clip whose resized pictures tell shots apart; its crop has at most 4 x 32 x 32 pixels."""


class Picture(Protocol):
    """What a source gives for one time: see :class:`pipelines.data.picture.Picture`."""

    @property
    def size(self) -> Size:
        """(height, width) upright, in square pixels."""
        ...

    def cover(self, height: int, width: int) -> np.ndarray:
        """uint8 [height, width, 3]."""
        ...

    def whole(self, height: int, width: int) -> np.ndarray:
        """uint8 [H, W, 3], nothing cropped."""
        ...


@dataclass(frozen=True)
class CutWindow:
    """One clip: the place of its first frame on the time grid, and uint8 [T, H, W, 3]."""

    start: int
    frames: np.ndarray


def forms(clip: Clip, buckets: Buckets | None, still: bool) -> tuple[Form, ...]:
    """The forms for a still picture (one frame), or for a video (more than one, where there are such)."""
    sizes = buckets.sizes if buckets else ((clip.num_frames, clip.height, clip.width),)
    fitting = tuple(size for size in sizes if (size[0] == 1) == still)
    return fitting if fitting or still else tuple(sizes)


def pixels_kept(form: Form, size: Size) -> float:
    """Pixels per frame that a form keeps of a source of ``size``, times the share of the picture inside its crop."""
    _, height, width = form
    ratio = (width / height) / (size[1] / size[0])
    share = min(ratio, 1 / ratio)
    return share * min(share * size[0] * size[1], float(height * width))


def best_sizes(choices: Sequence[Form], size: Size) -> dict[int, tuple[Size, float]]:
    """Per number of frames: the (height, width) that keeps most of a source of ``size``, and what it keeps.

    Of equals the smaller one is taken, because it enlarges less.
    """
    best: dict[int, tuple[Size, float]] = {}
    for form in sorted(choices, key=lambda form: (-pixels_kept(form, size), form[1] * form[2])):
        best.setdefault(form[0], (form[1:], pixels_kept(form, size)))
    return best


def advance(frames: int, stride: float) -> int:
    """Frames from one clip's start to the next."""
    return max(1, round(stride * frames))


def tail(length: int, covered: int, kept: dict[int, float], stride: float) -> list[int]:
    """Clip lengths, one after another from the start, that keep most of the last ``length`` frames of a run.

    Args:
        length: frames left.
        covered: how many of them, from the first on, an earlier clip holds already; they count for nothing.
        kept: pixels kept per frame, by clip length.
        stride: from one clip's start to the next, in clip lengths.

    Returns:
        Of equally good ways the one with the fewest clips, longer ones first.
    """
    lengths = sorted(kept, reverse=True)

    @cache
    def best(left: int, held: int) -> tuple[float, int, tuple[int, ...]]:
        found: tuple[float, int, tuple[int, ...]] = (0.0, 0, ())
        for frames in lengths:
            if held < frames <= left:
                step = advance(frames, stride)
                pixels, fewer, rest = best(max(0, left - step), max(0, max(held, frames) - step))
                way = (pixels + (frames - held) * kept[frames], fewer - 1, (frames, *rest))
                found = max(found, way, key=lambda one: one[:2])
        return found

    return list(best(length, covered)[2])


class _Run:
    """Frames without gap or cut between them: holds as many as two clips, gives windows as soon as decided."""

    def __init__(self, start: int, size: Size, choices: Sequence[Form], stride: float) -> None:
        best = best_sizes(choices, size)
        self.sizes = {frames: found for frames, (found, _) in best.items()}
        self.kept = {frames: pixels for frames, (_, pixels) in best.items()}
        self.stride, self.start, self.next = stride, start, start
        self.covered = 0
        self.lead = max(self.kept, key=lambda frames: (self.kept[frames], frames))
        self.hold = self.lead if len(self.kept) == 1 else self.lead + max(self.kept)
        self.pixels: list[dict[Size, np.ndarray]] = []

    def push(self, picture: Picture) -> Iterator[CutWindow]:
        if self.next >= self.start:
            self.pixels.append({size: picture.cover(*size) for size in set(self.sizes.values())})
        self.next += 1
        while len(self.pixels) >= self.hold:
            yield self._take(self.lead)

    def is_done(self, total: int | None, count: int, shortest: int) -> bool:
        """Whether the pictures from ``count`` on, of ``total`` in all, make no clip any more, with those held."""
        return total is not None and len(self.pixels) + total - count - max(0, self.start - self.next) < shortest

    def end(self) -> Iterator[CutWindow]:
        for frames in tail(len(self.pixels), self.covered, self.kept, self.stride):
            yield self._take(frames)

    def _take(self, frames: int) -> CutWindow:
        size = self.sizes[frames]
        window = CutWindow(self.start, np.stack([held[size] for held in self.pixels[:frames]]))
        step = advance(frames, self.stride)
        self.pixels = self.pixels[step:]
        self.start += step
        self.covered = max(0, max(self.covered, frames) - step)
        return window


def cut(
    pictures: Iterator[Picture | None],
    choices: Sequence[Form],
    cutting: Cutting,
    rate: float,
    seen: Seen | None = None,
) -> Iterator[CutWindow]:
    """Clips of a stream, in order; a stretch without a frame near its time is cut around, and so is a shot boundary.

    Args:
        pictures: one per time of the grid, or None where there is none.
        choices: the forms to choose from.
        cutting: stride and shot detection.
        rate: frames per second of the grid, for the words of an error.
        seen: what the stream knows of itself meanwhile; where it says that what is left is too short for a clip, that
            is not read.

    Raises:
        VideoError: the stream fails, or not one whole clip is in it.
    """
    run: _Run | None = None
    count = gaps = cuts = whole = 0
    shortest, seen = min(frames for frames, _, _ in choices), seen or Seen()
    for picture, boundary in _with_boundaries(pictures, cutting, choices):
        if run is not None and (picture is None or boundary):
            for window in run.end():
                whole += 1
                yield window
            run = None
        gaps, cuts = gaps + (picture is None), cuts + boundary
        if picture is not None:
            run = run or _Run(count, picture.size, choices, cutting.stride)
            if not run.is_done(seen.total, count, shortest):
                for window in run.push(picture):
                    whole += 1
                    yield window
        count += 1
        if run is not None and run.is_done(seen.total, count, shortest):
            count = max(count, seen.total or 0)
            break
    for window in run.end() if run is not None else ():
        whole += 1
        yield window
    if whole == 0:
        raise _nothing(count, gaps, cuts, shortest, rate, seen.frame_rate)


def _with_boundaries(
    pictures: Iterator[Picture | None], cutting: Cutting, choices: Sequence[Form]
) -> Iterator[tuple[Picture | None, bool]]:
    """Each picture, and whether a shot begins with it."""
    if cutting.shots is None:
        return ((picture, False) for picture in pictures)

    def shown(picture: Picture) -> np.ndarray:
        """What its clips are cropped from, where that is small enough to be compared."""
        for size, _ in best_sizes(choices, picture.size).values():
            if min(size) >= SMALL and size[0] * size[1] <= SMALL * SMALL * 4:
                return picture.whole(*size)
        return shots.small(picture)

    return shots.boundaries(pictures, cutting.shots.threshold, cutting.shots.ratio, shown)


def _nothing(count: int, gaps: int, cuts: int, shortest: int, rate: float, found: float | None) -> VideoError:
    if count < shortest:
        return VideoError("too_short", f"{count} frames at {rate:g} per second; a clip has {shortest}")
    if cuts:
        return VideoError("too_short", f"none of its {cuts + 1} shots has the {shortest} frames of a clip")
    text = f"{gaps} of {count} times have no frame within half a period"
    if found is not None and found < rate:
        text = (
            f"it has {found:.3g} frames per second, clips {rate:g}; lower raw_video.clip.frame_rate to at most "
            f"{math.floor(found * 100) / 100:g}, or state cutting.hold to show frames on ({text})"
        )
    else:
        text += "; state cutting.hold to show the frame before on, as a screen does"
    return VideoError("frame_rate_too_low", text)


def told_of(seen: Seen, rate: float) -> dict[str, float]:
    """What is counted of a file that gave clips, by the names of the metrics."""
    return {
        "source_seconds": (seen.total or seen.pictures) / rate,
        "gap_seconds": seen.gaps / rate,
        "held_seconds": seen.held / rate,
        "files_deinterlaced": int(seen.interlaced),
        "files_tone_mapped": int(seen.hdr),
    }
