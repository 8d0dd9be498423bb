"""Whether anything on disk has moved since a look at it, told by a few stats: no file is read, no folder listed.

A folder's time changes when something in it appears or goes. So of a large tree its folders are enough to notice new
and deleted files; of a small one every file is marked too, so that an edit in place is noticed as well. What only a
full look can tell (an edit in place of one of many files) is told by ``reel status``, by the next run, and by the look
that the next change brings.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

MOST_FILES = 1000
"""Of one tree that are marked one by one."""
MOST_FOLDERS = 5000
PASSED = frozenset({".dvc", ".git", ".hg", "__pycache__"})


def listing(root: Path, path: str) -> list[str]:
    """What to look at to notice a change at a path: itself, the folders below it, and its files where they are few."""
    found, files = [path], []
    for parent, folders, names in os.walk(root / path):
        folders[:] = [name for name in folders if name not in PASSED]
        here = os.path.relpath(parent, root)
        found += [f"{here}/{name}" for name in folders]
        files += [f"{here}/{name}" for name in names[: MOST_FILES + 1 - len(files)]]
        if len(found) > MOST_FOLDERS:
            return found[:MOST_FOLDERS]
    return found + files if len(files) <= MOST_FILES else found


def digest(root: Path, listed: Mapping[str, Iterable[str]]) -> str:
    """One word for the state of everything that is listed."""
    marks = hashlib.sha256()
    for path in sorted(listed):
        for place in listed[path]:
            marks.update(f"{place}\0{_mark(root, place)}\n".encode("utf-8", "surrogateescape"))
    return marks.hexdigest()


def _mark(root: Path, place: str) -> str:
    try:
        facts = os.stat(f"{root}/{place}" if not place.startswith("/") else place)  # noqa: PTH116 (a Path costs more)
    except OSError:
        return "-"
    return f"{facts.st_mtime_ns} {facts.st_size} {facts.st_ino}"
