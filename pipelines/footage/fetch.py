"""``reel fetch URL FOLDER``: footage that arrives under an address, brought into a folder; each file once, and whole.

The folder is what `raw_video.source` names, so everything behind it works as for files that a person copies there. A
file is known by its size and by what the address says of its content (ETag, time), noted in ``.work/fetched.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from pipelines.data.address import GIVE_UP, PAUSE, TRIES, refusal, shown
from pipelines.leftovers import shown as in_bytes
from pipelines.stage import StageError, write_json

NOTE = Path(".work/fetched.json")
VERSIONS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "created")
"""What file systems call the sign by which a changed file is told; the first that is there counts."""


def version(facts: Mapping[str, Any]) -> str:
    """What tells this content from other content of the same name."""
    sign = next((str(facts[name]) for name in VERSIONS if facts.get(name) is not None), "")
    return f"{facts['size']} {sign}"


def listed(files: Any, root: str) -> dict[str, dict[str, Any]]:
    """Every file below the address by its place there.

    Raises:
        StageError: a name would lead out of the folder.
    """
    found = {}
    for path, facts in files.find(root, detail=True).items():
        inside = PurePosixPath(path.removeprefix(root).lstrip("/"))
        if inside.is_absolute() or ".." in inside.parts:
            raise StageError(f"{path}: its name leads out of the folder; rename it there.")
        if facts["size"] and inside.parts:
            found[inside.as_posix()] = facts
    return found


def fetch(url: str, folder: Path, known: dict[str, str]) -> tuple[list[str], int]:
    """Bring what is new or changed; returns the names and the bytes moved. ``known`` is brought up to date as it goes.

    Raises:
        StageError: the address cannot be reached or read.
    """
    try:
        files, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise StageError(f"{shown(url)}: {error}; for s3://: pip install 'reelgraph[s3]'") from None
    there = _try(url, lambda: listed(files, root))
    new, moved = [], 0
    for name, facts in sorted(there.items()):
        place = folder / name
        if place.is_file() and known.get(place.as_posix()) == version(facts):
            continue
        _try(url, lambda name=name, place=place, facts=facts: _bring(files, f"{root.rstrip('/')}/{name}", place, facts))
        known[place.as_posix()] = version(facts)
        new.append(name)
        moved += facts["size"]
    return new, moved


def _bring(files: Any, source: str, place: Path, facts: Mapping[str, Any]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.partial-{os.getpid()}")
    try:
        files.get_file(source, str(partial))
        if partial.stat().st_size != facts["size"]:
            raise OSError(f"{partial.stat().st_size} bytes arrived of {facts['size']}")
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)


def _try(url: str, act: Any) -> Any:
    for number in range(TRIES):
        try:
            return act()
        except Exception as error:
            reason = refusal(url, error)
            if reason is None or isinstance(error, StageError):
                raise
            if isinstance(error, GIVE_UP) or number + 1 == TRIES:
                raise StageError(f"{shown(url)}: {reason}. What has arrived is kept; run it again.") from None
            time.sleep(PAUSE * 2**number)
    raise AssertionError("the last try returns or raises")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="reel fetch", description="Bring new footage from an address into a folder.")
    parser.add_argument("url", help="a prefix: s3://lab/incoming, gs://…, or a folder")
    parser.add_argument("folder", type=Path, help="the folder that raw_video.source names")
    given = parser.parse_args(argv)
    known: dict[str, str] = json.loads(NOTE.read_text(encoding="utf-8")) if NOTE.is_file() else {}
    try:
        new, moved = fetch(given.url, given.folder, known)
    except (StageError, OSError) as error:
        print(f"reel fetch: {error}", file=sys.stderr)
        return 2
    finally:
        write_json(NOTE, known)
    shown_ = f": {', '.join(new[:3])}{' …' if len(new) > 3 else ''}" if new else ""
    print(f"{len(new)} new or changed files, {in_bytes(moved)} moved from {shown(given.url)}{shown_}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
