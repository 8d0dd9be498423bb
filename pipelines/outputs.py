"""A folder that a stage makes appears whole, and with the permissions that its user gives new files."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A temporary sibling of ``out`` that becomes ``out`` when the block ends well; nothing appears otherwise."""
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        follow_umask(partial)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def follow_umask(folder: Path) -> None:
    """Give what is in a folder that was just made the permissions that a new file or folder would get in it.

    safetensors writes with 0600 whatever the umask is, so that whoever shares the disk cannot read the weights; what is
    copied keeps those of its origin, such as 0444 in DVC's cache, which others can read where the umask says they may
    not. What the folder itself was given shows the umask (or the default of its parent's access list).
    """
    wanted = folder.stat().st_mode & 0o777
    for path in folder.rglob("*"):
        if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1):
            continue
        mode = path.stat().st_mode & 0o7777
        given = wanted if path.is_dir() else wanted & 0o666 | mode & 0o111 & wanted
        if given != mode & 0o777:
            path.chmod(mode & 0o7000 | given)
