"""What file managers, network drives and an unfinished fetch leave in a folder: never a clip, never a change of data.

``.dvcignore`` holds the same patterns, so that DVC and every reader see one folder.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path

LITTER = (
    ".DS_Store",
    "._*",
    ".AppleDouble",
    ".Spotlight-V100",
    ".TemporaryItems",
    ".Trashes",
    ".fseventsd",
    ".localized",
    "[Tt]humbs.db",
    "ehthumbs*.db",
    "[Dd]esktop.ini",
    "$RECYCLE.BIN",
    "System Volume Information",
    "@eaDir",
    "#recycle",
    "#snapshot",
    ".@__thumb",
    ".Trash-*",
    ".directory",
    ".nfs*",
    ".fuse_hidden*",
    ".~lock.*#",
    ".*.partial-*",
)
"""Names of files and folders, as ``fnmatch`` reads them: macOS, Windows, NAS makers, desktops, NFS, `reel fetch`."""


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is a file manager's."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in LITTER)


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """``os.walk`` in sorted order, without litter."""
    for folder, inside, files in os.walk(root):
        inside[:] = sorted(name for name in inside if not is_litter(name))
        yield Path(folder), inside, sorted(name for name in files if not is_litter(name))
