"""Files opened as streams of pictures: a video, a stretch of a video, a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.limits import Limits, VideoError
from pipelines.data.picture import Picture as Decoded
from pipelines.data.resample import ROUNDING_SECONDS
from pipelines.data.video import sample_pictures
from pipelines.footage.columns import Span
from pipelines.footage.cutting import Picture
from pipelines.footage.stills import read_picture


@dataclass(frozen=True)
class VideoReel:
    """A video file, sampled at the clips' frame rate."""

    path: Path
    digest: str
    frame_rate: float
    limits: Limits
    start_seconds: float = 0.0

    def pictures(self) -> Iterator[Picture | None]:
        """See :class:`pipelines.footage.found.Reel`."""
        return sample_pictures(self.path, self.frame_rate, self.limits)

    def facts(self, start: int, num_frames: int) -> dict[str, Any]:
        """The file and the place in it."""
        return {"source": self.digest, "start": start}

    def actions(self, start: int, num_frames: int) -> np.ndarray | None:
        """Unknown."""
        return None


class StillReel(VideoReel):
    """A picture: one frame."""

    def pictures(self) -> Iterator[Picture | None]:
        """See :class:`pipelines.footage.found.Reel`."""
        yield read_picture(self.path, self.limits)


@dataclass(frozen=True)
class CutReel(VideoReel):
    """A stretch of a video on the time grid of the whole: no frame from before its begin, none from its end on."""

    span: Span = (0.0, math.inf)
    times: list[float] = field(default_factory=list)
    """Seconds since the begin of the cut, per time of the grid; NaN where there is no picture."""

    def pictures(self) -> Iterator[Picture | None]:
        """See :class:`pipelines.footage.found.Reel`.

        Raises:
            VideoError: the file cannot be used, or ends before the cut begins.
        """
        begin, end = self.span
        zero, last = None, -1.0
        first = round(self.start_seconds * self.frame_rate)
        for number, picture in enumerate(sample_pictures(self.path, self.frame_rate, self.limits)):
            if picture is not None:
                stated = picture.frame.time if isinstance(picture, Decoded) else None
                seconds = number / self.frame_rate if stated is None else float(stated)
                zero = seconds if zero is None else zero
                last = seconds - zero
            if number < first:
                continue
            if number / self.frame_rate >= end - ROUNDING_SECONDS:
                break
            inside = picture is not None and begin - ROUNDING_SECONDS <= last < end - ROUNDING_SECONDS
            self.times.append(max(0.0, last - begin) if inside else math.nan)
            yield picture if inside else None
        if not self.times:
            raise VideoError(
                "cut_outside",
                f"the file ends at {max(last, 0.0):.2f} s, the cut begins at {begin:g} s; if the file is the cut "
                "already, rename the columns of the times (source_start, source_end)",
            )


def first_time(span: Span, frame_rate: float) -> float:
    """The first time of the clips' grid inside a cut, in seconds."""
    return math.ceil((span[0] - ROUNDING_SECONDS) * frame_rate) / frame_rate


def cut_reel(path: Path, span: Span, frame_rate: float, limits: Limits, digest: str) -> CutReel:
    """A stretch of a video, from the first time of the clips' grid that is in it."""
    return CutReel(path, digest, frame_rate, limits, first_time(span, frame_rate), span)


def open_file(path: Path, still: bool, frame_rate: float, limits: Limits, digest: str) -> VideoReel:
    """A video or a picture."""
    return (StillReel if still else VideoReel)(path, digest, frame_rate, limits)
