"""Given frames of a clip, from pictures or from a video with holes, as the keyframes that a refiner starts from.

A latent frame covers one frame (the first) or several; it is given when pictures say what all of it shows: a picture
stands for the whole latent frame it falls into, and of a video all its frames must be there. Missing frames are held
from the nearest given one before the clip is encoded; what is encoded of them is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from av.video.frame import VideoFrame
from torch import Tensor

from pipelines.data.limits import Limits
from pipelines.data.picture import Picture
from pipelines.data.stills import read_picture
from pipelines.data.video import VideoError, read_clip
from pipelines.stage import StageError

PICTURE = Limits(max_pixels=1 << 27)
"""Of a picture that is named on the command line: larger than any camera's."""


@dataclass(frozen=True)
class Given:
    """Frames of a clip that are known.

    Attributes:
        frames: uint8 [H, W, 3] by place, all of one size.
        named: what each came from, for messages.
        length: of the clip; None where pictures leave it open.
        whole_groups: whether a latent frame needs all of its frames (a video's), or one (a picture's).
    """

    frames: dict[int, np.ndarray]
    named: dict[int, str]
    length: int | None
    whole_groups: bool

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = next(iter(self.frames.values())).shape[:2]
        return height, width


def parse_place(word: str) -> tuple[Path, int]:
    """``a.png@20`` as path and place.

    Raises:
        StageError: it is no such word.
    """
    found = re.fullmatch(r"(.+)@(\d{1,9})", word)
    if found is None:
        raise StageError(f"--keyframes {word}: write PICTURE@FRAME, such as first.png@0 (frames count from 0).")
    return Path(found[1]), int(found[2])


def pixels(path: Path) -> np.ndarray:
    """A picture as training reads pictures, uint8 [H, W, 3]: upright, in eight bits and sRGB, over black.

    Raises:
        StageError: the file is no picture, or has more pixels than ``PICTURE`` allows.
    """
    try:
        return read_picture(path, PICTURE).pixels()
    except (VideoError, OSError) as error:
        raise StageError(f"{path}: cannot be read as a picture ({error}).") from None


def pictures(words: Sequence[str]) -> Given:
    """Keyframes ``PICTURE@FRAME``.

    Raises:
        StageError: a word is none, a file is no picture, two stand for one frame, or their sizes differ.
    """
    frames: dict[int, np.ndarray] = {}
    named: dict[int, str] = {}
    for word in words:
        path, place = parse_place(word)
        if place in frames:
            raise StageError(f"--keyframes: {named[place]} and {word} are two pictures for frame {place}; keep one.")
        frames[place], named[place] = pixels(path), word
        first = next(iter(frames))
        if frames[place].shape != frames[first].shape:
            sizes = [f"{named[at]} is {frames[at].shape[0]}x{frames[at].shape[1]}" for at in (first, place)]
            raise StageError(f"--keyframes: {' and '.join(sizes)} (height x width); make them one size.")
    return Given(frames, named, None, whole_groups=False)


def parse_missing(words: Sequence[str], length: int) -> set[int]:
    """``5-12 14`` as places of a clip.

    Raises:
        StageError: a word is neither a place nor a range, or lies outside the clip.
    """
    found: set[int] = set()
    for word in words:
        parts = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", word)
        if parts is None:
            raise StageError(f"--missing {word}: write frames and ranges of frames, such as 5-12 14.")
        low, high = int(parts[1]), int(parts[2] or parts[1])
        if low > high or high >= length:
            raise StageError(f"--missing {word}: the video has frames 0 to {length - 1}.")
        found |= set(range(low, high + 1))
    return found


def video(path: Path, missing: Sequence[str]) -> Given:
    """A video, all of it but the missing frames.

    Raises:
        StageError: it cannot be read, no frame is missing, or all are.
    """
    try:
        frames = read_clip(path)
    except (VideoError, OSError) as error:
        raise StageError(f"--video {path}: {error}.") from None
    holes = parse_missing(missing, len(frames))
    if not holes:
        raise StageError("--missing: no frame is missing, so there is nothing to fill in.")
    if len(holes) == len(frames):
        raise StageError(f"--missing: all {len(frames)} frames are missing; a refiner needs some to start from.")
    known = {place: frame for place, frame in enumerate(frames) if place not in holes}
    return Given(known, {place: f"frame {place} of {path}" for place in known}, len(frames), whole_groups=True)


# ---- on the grid of latent frames ---------------------------------------------------------------------------------


def latent_places(given: Given, num_frames: int, stride: int) -> list[int]:
    """Latent frames that are given, rising.

    Raises:
        StageError: a frame lies outside the clip, two pictures fall into one latent frame, or none is given whole.
    """
    outside = [place for place in sorted(given.frames) if place >= num_frames]
    if outside:
        longer = -(-max(outside) // stride) * stride + 1
        raise StageError(
            f"--keyframes: {given.named[outside[0]]} lies outside the clip, whose frames are 0 to {num_frames - 1}; "
            f"ask for --num-frames {longer}, or move it."
        )
    found: dict[int, list[int]] = {}
    for place in sorted(given.frames):
        found.setdefault(-(-place // stride), []).append(place)
    if given.whole_groups:
        whole = [group for group, places in found.items() if len(places) == (stride if group else 1)]
        if not whole:
            raise StageError(
                f"--missing: frames are given in groups of {stride} (1 to {stride}, {stride + 1} to {2 * stride} …; "
                "frame 0 by itself), and none is there as a whole."
            )
        return whole
    for group, places in found.items():
        if len(places) > 1:
            one, other = given.named[places[0]], given.named[places[1]]
            first = max(0, (group - 1) * stride + 1)
            raise StageError(
                f"--keyframes: {one} and {other} both stand for the latent frame of frames {first} to "
                f"{group * stride}; keep one of them."
            )
    return sorted(found)


def held(given: Given, num_frames: int, stride: int, size: tuple[int, int]) -> Tensor:
    """The clip [1, 3, T, H, W] in [-1, 1], covered and cropped to ``size``; missing frames are the nearest given one.

    A picture is held over its whole latent frame.
    """
    places = np.array(sorted(given.frames))
    covered = {place: _covered(frame, size) for place, frame in given.frames.items()}
    frames = []
    for frame in range(num_frames):
        group = [place for place in places if -(-place // stride) == -(-frame // stride)]
        near = frame if frame in covered else (group or [places[np.abs(places - frame).argmin()]])[0]
        frames.append(covered[int(near)])
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1.0


def _covered(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if pixels.shape[:2] == size:
        return pixels
    return Picture(VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")).cover(*size)
