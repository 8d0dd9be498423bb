"""What killed processes leave half written, and how much room things take."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

WORK = Path(".work")
PARTIAL = re.compile(r"\.(.+)\.partial-(\d+)")
"""Name of an output while it is written: the output's own name, and the process that writes it."""
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def shown(count: float) -> str:
    """Bytes as people say them: ``12.3 MiB``."""
    unit = 0
    while count >= 1024 and unit < len(UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} {UNITS[unit]}" if unit == 0 else f"{count:.1f} {UNITS[unit]}"


def remove(path: Path) -> None:
    """A file or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_partials(stage: str, outs: Iterable[Path]) -> None:
    """Before a stage starts, and while its outputs are owned: what killed runs of it have left half written."""
    places = [(out.parent, f".{out.name}.partial-*") for out in outs]
    places += [(WORK / stage, pattern) for pattern in (".*.partial-*", "*/.*.partial-*")]
    found = [path for folder, pattern in places for path in folder.glob(pattern) if PARTIAL.fullmatch(path.name)]
    freed = sum(map(size, found))
    for path in found:
        remove(path)
    if found:
        print(f"{stage}: removed what a killed run had half written ({shown(freed)})", flush=True)
