"""What file managers, network drives and an unfinished fetch leave in a folder: never a clip, never a change of data.

``.dvcignore`` holds the same patterns, so that DVC and every reader see one folder.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path

LITTER = (
    ".DS_Store",
    "._*",
    ".AppleDB",
    ".AppleDesktop",
    ".AppleDouble",
    ".DocumentRevisions-V100",
    ".Spotlight-V100",
    ".TemporaryItems",
    ".Trashes",
    ".VolumeIcon.icns",
    ".apdisk",
    ".fseventsd",
    ".localized",
    "Network Trash Folder",
    "Temporary Items",
    "__MACOSX",
    "[Tt][Hh][Uu][Mm][Bb][Ss].[Dd][Bb]",
    "ehthumbs*.db",
    "[Dd][Ee][Ss][Kk][Tt][Oo][Pp].[Ii][Nn][Ii]",
    "$[Rr][Ee][Cc][Yy][Cc][Ll][Ee].[Bb][Ii][Nn]",
    "RECYCLER",
    "System Volume Information",
    "~$*",
    "@[Ee][Aa][Dd][Ii][Rr]",
    "@Recycle",
    "@Recently-Snapshot",
    "@SynoResource",
    "#recycle",
    "#snapshot",
    ".@__thumb",
    ".@upload_cache",
    ".Trash-*",
    ".directory",
    ".goutputstream-*",
    ".hidden",
    ".thumbnails",
    ".picasa.ini",
    "Picasa.ini",
    ".dropbox",
    ".dropbox.cache",
    ".stfolder",
    ".stversions",
    ".syncthing.*",
    ".nfs*",
    ".fuse_hidden*",
    ".~lock.*#",
    ".*.partial-*",
    "lost+found",
)
"""Names of files and folders, as ``fnmatch`` reads them: macOS, Windows, Synology and QNAP, Linux desktops, what keeps
folders in step, NFS and other file systems, and `reel fetch`."""
_MATCHES = re.compile("|".join(map(fnmatch.translate, LITTER))).match


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is a file manager's."""
    return _MATCHES(name) is not None


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """``os.walk`` in sorted order, without litter."""
    for folder, inside, files in os.walk(root):
        inside[:] = sorted(name for name in inside if not is_litter(name))
        yield Path(folder), inside, sorted(name for name in files if not is_litter(name))
