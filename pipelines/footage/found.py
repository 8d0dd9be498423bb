"""One file of a source before it is read: its name, what is told of it, how it is opened as pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipelines.data.limits import VideoError
from pipelines.footage.captions import Told
from pipelines.footage.columns import Span
from pipelines.footage.cutting import Picture


class Reel(Protocol):
    """One opened file, or a cut of it."""

    @property
    def start_seconds(self) -> float:
        """Where its first picture is, since the first frame of the file."""
        ...

    def pictures(self) -> Iterator[Picture | None]:
        """One per time of the clips' grid, None where there is none."""
        ...

    def facts(self, start: int, num_frames: int) -> dict[str, Any]:
        """What identifies the content of the clip that starts there."""
        ...

    def actions(self, start: int, num_frames: int) -> np.ndarray | None:
        """float32 [num_frames, A], or None where unknown."""
        ...


CUT = re.compile(r"#[\d.e+]+-[\d.e+]+$")
"""What follows a file's name in that of a cut of it."""


def cut_name(name: str, span: Span) -> str:
    """The name of a cut of a file."""
    return f"{name}#{span[0]:g}-{span[1]:g}"


def file_of(name: str) -> str:
    """The file that a cut is of; any other name as it is."""
    return CUT.sub("", name)


@dataclass(frozen=True)
class Found:
    """One file (or folder of frames, or cut of a file) of a source, not yet read.

    ``digest`` hashes all its content, ``open`` takes that digest. ``unit`` hashes what stays when a recording grows,
    or the whole file that a cut is of, and decides the split; None: the digest does. ``place`` of ``total`` tells how
    far the source is. ``close`` frees what was spooled to read it: ``spooled`` bytes.
    """

    name: str
    place: int
    total: int
    still: bool
    told: Callable[[], Told]
    no_caption: str
    digest: Callable[[], str]
    unit: Callable[[], str] | None
    open: Callable[[str], Reel]
    close: Callable[[], None] | None = None
    spooled: int = 0


def refused(name: str, place: int, total: int, error: VideoError) -> Found:
    """What cannot be used, in its place among the others."""

    def refuse(*_: str) -> Any:
        raise error

    return Found(name, place, total, False, refuse, "", refuse, None, refuse)
