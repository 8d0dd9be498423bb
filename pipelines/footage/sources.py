"""What a source holds: files found, with their captions, to be opened one by one as streams of pictures."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipelines.data.limits import Limits, check_bytes
from pipelines.data.video import SUFFIXES as VIDEOS
from pipelines.data.video import sample_pictures
from pipelines.footage.captions import captions_from_file, sidecar_caption
from pipelines.footage.cutting import Picture
from pipelines.footage.params import Folder, Footage, Recordings
from pipelines.footage.recordings import find_recordings, numbered_frames, open_recording
from pipelines.footage.stills import SUFFIXES as IMAGES
from pipelines.footage.stills import read_picture
from pipelines.litter import walk
from pipelines.stage import StageError, file_digest

MEDIA = {"videos": VIDEOS, "images": IMAGES, "both": (*VIDEOS, *IMAGES)}


class Reel(Protocol):
    """One opened file."""

    def pictures(self) -> Iterator[Picture | None]:
        """One per time of the clips' grid, None where there is none."""
        ...

    def facts(self, start: int, num_frames: int) -> dict[str, Any]:
        """What identifies the content of the clip that starts there."""
        ...

    def actions(self, start: int, num_frames: int) -> np.ndarray | None:
        """float32 [num_frames, 6], or None where unknown."""
        ...


@dataclass(frozen=True)
class Found:
    """One file (or folder of frames) of a source, not yet read.

    ``digest`` hashes all its content, ``open`` takes that digest. ``unit`` hashes what stays when a recording grows,
    and decides the split; None: the digest does. ``place`` of ``total`` tells how far the source is. ``close`` frees
    what was spooled to read it.
    """

    name: str
    place: int
    total: int
    still: bool
    caption: Callable[[], str]
    no_caption: str
    digest: Callable[[], str]
    unit: Callable[[], str] | None
    open: Callable[[str], Reel]
    close: Callable[[], None] | None = None


@dataclass(frozen=True)
class VideoReel:
    """A video file, sampled at the clips' frame rate."""

    path: Path
    digest: str
    frame_rate: float
    limits: Limits

    def pictures(self) -> Iterator[Picture | None]:
        """See :class:`Reel`."""
        return sample_pictures(self.path, self.frame_rate, self.limits)

    def facts(self, start: int, num_frames: int) -> dict[str, Any]:
        """The file and the place in it."""
        return {"source": self.digest, "start": start}

    def actions(self, start: int, num_frames: int) -> None:
        """Unknown."""


class StillReel(VideoReel):
    """A picture: one frame."""

    def pictures(self) -> Iterator[Picture | None]:
        """See :class:`Reel`."""
        yield read_picture(self.path, self.limits)


def limits_of(params: Footage) -> Limits:
    """The limits of a source's block as the decoder takes them."""
    return Limits(**params.limits.model_dump())


def find_videos(root: Path, suffixes: tuple[str, ...] = VIDEOS, key: str = "raw_video.source.folder.path") -> list[str]:
    """The files of a folder tree with the suffixes, as sorted posix paths relative to it; hidden ones, and what
    file managers leave (:mod:`pipelines.litter`), are passed over.

    Raises:
        StageError: there is no such folder, or it holds no such files.
    """
    _check_folder(root, key)
    inside = [(folder / name).relative_to(root) for folder, _, names in walk(root) for name in names]
    seen = sorted(path.as_posix() for path in inside if not any(part.startswith(".") for part in path.parts))
    videos = [name for name in seen if name.lower().endswith(suffixes)]
    if not videos:
        kind = "a video" if suffixes == VIDEOS else "a picture" if suffixes == IMAGES else "a video or picture"
        holds = f"holds {len(seen)} files, none of them {kind}" if seen else "is empty"
        raise StageError(f"{key}: {root}: {holds}; put files with these endings there: {' '.join(suffixes)}.")
    return videos


def _check_folder(root: Path, key: str) -> None:
    if not root.is_dir():
        siblings = [path.name for path in root.parent.iterdir() if path.is_dir()] if root.parent.is_dir() else []
        close = difflib.get_close_matches(root.name, siblings, n=1)
        hint = f"did you mean {root.parent / close[0]}?" if close else "paths start at the project's root."
        raise StageError(f"{key}: {root}: {'is not a folder' if root.exists() else 'no such folder'}; {hint}")


def _captions(params: Folder | Recordings, names: list[str], key: str) -> Callable[[str], str]:
    """How to find the caption of a name: in the captions file, which is read now, or beside the file."""
    root = Path(params.path)
    if params.captions is None:
        return lambda name: sidecar_caption(root / name)
    inside = root / params.captions
    found = captions_from_file(inside if inside.is_file() else Path(params.captions), names, key)
    return lambda name: found.get(name, "")


def _absent(params: Folder | Recordings, name: str) -> str:
    sidecar = name + ".txt" if isinstance(params, Recordings) else Path(name).with_suffix(".txt").as_posix()
    return f"not in {params.captions}" if params.captions else f"no text in {sidecar} (or .json)"


def _file_digest(path: Path, limits: Limits) -> str:
    check_bytes(path, limits)
    return file_digest(path)


def open_file(path: Path, still: bool, frame_rate: float, limits: Limits, digest: str) -> Reel:
    """A video or a picture."""
    return (StillReel if still else VideoReel)(path, digest, frame_rate, limits)


def folder_files(params: Folder, frame_rate: float) -> Iterator[Found]:
    """The videos and pictures of a folder tree.

    Raises:
        StageError: the folder or the captions file cannot be used.
    """
    root, limits = Path(params.path), limits_of(params)
    names = find_videos(root, MEDIA[params.media])
    caption = _captions(params, names, "raw_video.source.folder.captions")
    for place, name in enumerate(names, 1):
        path, still = root / name, name.lower().endswith(IMAGES)
        digest = partial(_file_digest, path, limits)
        opened = partial(open_file, path, still, frame_rate, limits)
        found = partial(caption, name)
        yield Found(name, place, len(names), still, found, _absent(params, name), digest, None, opened)


def recordings(params: Recordings, frame_rate: float) -> Iterator[Found]:
    """The folders of numbered frames below a folder.

    Raises:
        StageError: the folder or the captions file cannot be used, or there is no recording.
    """
    root, limits, key = Path(params.path), limits_of(params), "raw_video.source.recordings.path"
    _check_folder(root, key)
    names = find_recordings(root)
    if not names:
        raise StageError(f"{key}: {root}: no folder in it holds frame_0000.png, frame_0001.png, …; see docs/raw_video.")
    caption = _captions(params, names, "raw_video.source.recordings.captions")
    for place, name in enumerate(names, 1):
        folder, rates = root / name, (params.frame_rate, frame_rate)
        opened = partial(_open_recording, folder, params.action_log, rates, limits)
        whole, first = partial(_tree_digest, folder, params.action_log), partial(_first_digest, folder)
        yield Found(name, place, len(names), False, partial(caption, name), _absent(params, name), whole, first, opened)


def _open_recording(folder: Path, log: str | None, rates: tuple[float, float], limits: Limits, _: str) -> Reel:
    return open_recording(folder, log, rates, limits)


def _tree_digest(folder: Path, log: str | None) -> str:
    files = list(numbered_frames(folder).values())
    if log is not None and (folder / log).is_file():
        files.append(folder / log)
    return hashlib.sha256("".join(f"{path.name} {file_digest(path)}\n" for path in files).encode()).hexdigest()


def _first_digest(folder: Path) -> str:
    return file_digest(next(iter(numbered_frames(folder).values())))
