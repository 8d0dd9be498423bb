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
from pipelines.data.resample import ROUNDING_SECONDS, nearest_in_time
from pipelines.data.stills import animation, is_webp, read_picture
from pipelines.data.video import Seen, sample_pictures
from pipelines.footage.columns import Span
from pipelines.footage.cutting import Picture


@dataclass(frozen=True)
class VideoReel:
    """A video file, sampled at the clips' frame rate."""

    path: Path
    digest: str
    frame_rate: float
    limits: Limits
    start_seconds: float = 0.0
    hold_seconds: float = 0.0
    seen: Seen = field(default_factory=Seen)

    def pictures(self) -> Iterator[Picture | None]:
        """See :class:`pipelines.footage.found.Reel`."""
        return self._sampled(0)

    def _sampled(self, start: int) -> Iterator[Decoded | None]:
        return sample_pictures(self.path, self.frame_rate, self.limits, self.hold_seconds, self.seen, start)

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


class WebpReel(VideoReel):
    """An animated WebP: each of its frames is shown until the next, as it says."""

    def pictures(self) -> Iterator[Picture | None]:
        """See :class:`pipelines.footage.found.Reel`."""
        return nearest_in_time(animation(self.path, self.limits), self.frame_rate, math.inf)


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
        first = round(self.start_seconds * self.frame_rate)
        for number, picture in enumerate(self._sampled(first), first):
            if number / self.frame_rate >= end - ROUNDING_SECONDS:
                break
            shown = -1.0 if picture is None else picture.seconds
            inside = begin - ROUNDING_SECONDS <= shown < end - ROUNDING_SECONDS
            self.times.append(max(0.0, shown - begin) if inside else math.nan)
            yield picture if inside else None
        if not self.times:
            raise VideoError(
                "cut_outside",
                f"the file ends at {self.seen.seconds:.2f} s, the cut begins at {begin:g} s; if the file is the cut "
                "already, rename the columns of the times (source_start, source_end)",
            )


def first_time(span: Span, frame_rate: float) -> float:
    """The first time of the clips' grid inside a cut, in seconds."""
    return math.ceil((span[0] - ROUNDING_SECONDS) * frame_rate) / frame_rate


def cut_reel(path: Path, span: Span, frame_rate: float, limits: Limits, digest: str) -> CutReel:
    """A stretch of a video, from the first time of the clips' grid that is in it."""
    return CutReel(path, digest, frame_rate, limits, first_time(span, frame_rate), span=span)


def open_file(path: Path, still: bool, frame_rate: float, limits: Limits, digest: str) -> VideoReel:
    """A video, an animated picture or a picture."""
    if still:
        return StillReel(path, digest, frame_rate, limits)
    with path.open("rb") as file:
        kind = WebpReel if is_webp(file.read(12)) else VideoReel
    return kind(path, digest, frame_rate, limits)
