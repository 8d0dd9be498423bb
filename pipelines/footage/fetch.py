"""``reel fetch [URL [FOLDER]]``: footage that arrives under an address, brought into a folder; each once, and whole.

The folder is what `raw_video.source` names, so everything behind it works as for files that a person copies there. A
file is known by its size and by what the address says of its content (ETag, time), noted in ``.work/fetched.json`` as
it arrives. One that broke off goes on where it was: what has come stays beside its place, named by that content.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from pipelines.data.address import GIVE_UP, PAUSE, TRIES, refusal, shown
from pipelines.document import PARAMS_FILE, ParamsError, read_document
from pipelines.leftovers import shown as in_bytes
from pipelines.stage import StageError, write_json

URL = "REEL_INCOMING_URL"
"""Variable: the address that is looked at where none is said. Which one it is, is a fact of the machine."""
NOTE, LOCK = Path(".work/fetched.json"), Path(".work/fetched.lock")
NOTE_SECONDS = 2.0
"""At most so much of what arrived stands in no note yet, when the process is killed."""
PIECE = 32 * 2**20
"""Bytes that are asked for at once."""
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


class Changing(OSError):
    """What is read is being written there."""


class Fetch:
    """One look at an address.

    ``listed`` files are there; ``new`` are the names that came, ``changing`` those that are being written there;
    ``moved`` are the bytes that came now, ``kept`` those of the same files that an earlier look had brought.
    """

    def __init__(self, url: str, folder: Path, known: dict[str, str]) -> None:
        self.url, self.folder, self.known = url, folder, known
        self.listed = 0
        self.new: list[str] = []
        self.changing: list[str] = []
        self.moved, self.kept, self._noted = 0, 0, time.monotonic()
        try:
            self.files, self.root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StageError(f"{shown(url)}: {error}; for s3://: pip install 'reelgraph[s3]'") from None

    def run(self) -> None:
        """Bring what is new or changed; ``known`` is brought up to date as it goes.

        Raises:
            StageError: the address cannot be reached or read.
        """
        found = self._try(lambda: listed(self.files, self.root))
        self.listed = len(found)
        for name, facts in sorted(found.items()):
            place = self.folder / name
            if place.is_file() and self.known.get(place.as_posix()) == version(facts):
                continue
            try:
                self._try(lambda name=name, place=place: self._bring(name, place))
            except Changing:
                self.changing.append(name)
                continue
            self.known[place.as_posix()] = version(facts)  # as listed: a server may say it otherwise of one file alone
            self.new.append(name)
            if time.monotonic() - self._noted > NOTE_SECONDS:
                self.note()

    def note(self) -> None:
        """What is here, for the next look."""
        write_json(NOTE, self.known)
        self._noted = time.monotonic()

    def told(self) -> str:
        """What came, in a line."""
        names = f": {', '.join(self.new[:3])}{' …' if len(self.new) > 3 else ''}" if self.new else ""
        kept = f" ({in_bytes(self.kept)} of it had come before)" if self.kept else ""
        wait = f"; still being written there: {', '.join(self.changing[:3])}" if self.changing else ""
        moved = f"{in_bytes(self.moved)} moved from {shown(self.url)}"
        return f"{len(self.new)} new or changed files, {moved}{kept}{names}{wait}" + (
            "" if self.listed else ": no file is there"
        )

    def _bring(self, name: str, place: Path) -> None:
        """One file, from where it broke off."""
        source = f"{self.root.rstrip('/')}/{name}"
        content, size = self._now(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(place, content)
        with partial.open("ab") as stream:
            at = stream.tell()
            self.kept += at
            while at < size:
                piece = self.files.cat_file(source, start=at, end=min(at + PIECE, size))
                if not piece:
                    break
                stream.write(piece)
                at += len(piece)
                self.moved += len(piece)
        if at != size or self._now(source)[0] != content:
            partial.unlink()
            raise Changing(f"{name} changed while it was read")
        partial.replace(place)

    def _now(self, source: str) -> tuple[str, int]:
        """Version and bytes of a file there, asked anew."""
        self.files.invalidate_cache()
        facts = self.files.info(source)
        return version(facts), facts["size"]

    def _try(self, act: Callable[[], Any]) -> Any:
        for number in range(TRIES):
            try:
                return act()
            except Exception as error:
                reason = refusal(self.url, error)
                if reason is None or isinstance(error, StageError | Changing):
                    raise
                if isinstance(error, GIVE_UP) or number + 1 == TRIES:
                    raise StageError(f"{shown(self.url)}: {reason}. What has arrived is kept; run it again.") from None
                time.sleep(PAUSE * 2**number)
        raise AssertionError("the last try returns or raises")


def _partial(place: Path, content: str) -> Path:
    """Where a file of this content grows; what has come of other content of the name goes."""
    name = hashlib.sha256(place.name.encode()).hexdigest()[:16]  # as short for every name
    partial = place.with_name(f".{name}.partial-{hashlib.sha256(content.encode()).hexdigest()[:16]}")
    for other in place.parent.glob(f".{name}.partial-*"):
        if other != partial:
            other.unlink(missing_ok=True)
    return partial


@contextmanager
def _alone() -> Iterator[None]:
    """One fetch of a project at a time, so that no two write one file; the second waits."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waits for another process of this project, which is fetching", flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _folder() -> Path:
    """The folder of files that ``raw_video.source`` names.

    Raises:
        StageError: it names none.
    """
    source = (read_document()[0].get("raw_video") or {}).get("source") or {}
    paths = [one["path"] for one in source.values() if isinstance(one, Mapping) and isinstance(one.get("path"), str)]
    if not paths:
        raise StageError(
            f"{PARAMS_FILE}: raw_video.source names no folder into which footage could come: `reel use FOLDER` first, "
            "or name one here: reel fetch URL FOLDER."
        )
    return Path(paths[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="reel fetch", description="Bring new footage from an address into a folder.")
    parser.add_argument("url", nargs="?", help=f"a prefix: s3://lab/incoming, gs://…, or a folder; else {URL}")
    parser.add_argument("folder", nargs="?", type=Path, help="else the one that raw_video.source names")
    given = parser.parse_args(argv)
    try:
        url = given.url or os.environ.get(URL)
        if not url:
            raise StageError(f"from where? Name an address, or set {URL}.")
        with _alone():
            return _fetched(url, given.folder or _folder())
    except (StageError, ParamsError, OSError) as error:
        print(f"reel fetch: {error}", file=sys.stderr)
        return 2


def _fetched(url: str, folder: Path) -> int:
    known: dict[str, str] = json.loads(NOTE.read_text(encoding="utf-8")) if NOTE.is_file() else {}
    one = Fetch(url, folder, known)
    try:
        one.run()
    finally:
        one.note()
        if one.moved or sys.exc_info()[0] is None:  # also what a look that failed has moved
            print(one.told(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
