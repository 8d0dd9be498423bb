"""What was cut before is not cut again: clips and refusals kept per source file, by content, in ``.work``.

An entry is named by the file's content, everything that shapes its clips, and the code that cuts them, so that a rename
or a new caption finds it and any other change does not. It is whole or absent, and its clips are checked when used.
Clips that went into tars lie in these alone: the entry says in which, and where.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.code.stages import identity
from pipelines.data.catalog import TAR_OFFSET
from pipelines.data.limits import VideoError
from pipelines.data.stored import Place
from pipelines.footage.digests import Hashed
from pipelines.stage import file_digest, whole_folder

RECORD = "record.json"
SHAPING = (
    "pipelines.footage.ingest:cut_file",
    "pipelines.footage.reels:open_file",
    "pipelines.footage.reels:cut_reel",
    "pipelines.footage.sources:limits_of",
    "pipelines.footage.recordings:open_recording",
    "pipelines.footage.lerobot:EpisodeReel",
    "pipelines.footage.vpt:VptReel",
    "pipelines.footage.vpt:read_actions",
)
"""Functions that, with all they reach, decide what a clip is and how it measures."""
UNKEPT = ("too_slow",)
"""Refusals that depend on the machine are tried again."""


@cache
def code_digest() -> str:
    """The identity of the code that shapes a clip."""
    return identity(SHAPING).value


class Reuse:
    """Entries of one stage's earlier runs; ``prune`` forgets those that the finished run did not ask for."""

    def __init__(self, folder: Path, shape: Mapping[str, Any], hashed: Hashed = file_digest) -> None:
        self.folder, self.hashed, self.tars = folder, hashed, folder.with_name("tars")
        self.shape = {**shape, "code": code_digest()}
        self.asked: set[str] = set()
        self._in_tars: dict[Path, set[str]] = {}
        """By entry the tars in which clips of it lie."""
        self._sums: dict[str, str] = {}
        self._lock = threading.Lock()

    def entry(self, digest: str) -> Path:
        """Where the clips of a file of this content are, or will be."""
        text = json.dumps({**self.shape, "source": digest}, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        self.asked.add(name)
        return self.folder / name

    def find(self, digest: str) -> list[dict[str, Any]] | None:
        """The stored clips of a file of this content; None: it must be cut.

        Raises:
            VideoError: the file was refused before, with the reason of then.
        """
        entry = self.entry(digest)
        try:
            record = json.loads((entry / RECORD).read_text(encoding="utf-8"))
            if "reason" in record:
                raise VideoError(record["reason"], record["detail"])
            tars = record.get("tars", {})
            whole = all(self._sum(name) == sha256 for name, sha256 in tars.items())
            alone = [clip for clip in record["clips"] if "tar" not in clip]
            whole = whole and all(self.hashed(entry / clip["row"]["file"]) == clip["sha256"] for clip in alone)
        except (OSError, json.JSONDecodeError):
            return None
        self._in_tars[entry] = set(tars)
        return record["clips"] if whole else None

    def place(self, digest: str, clip: Mapping[str, Any]) -> Place:
        """Where a clip of a file of this content lies."""
        key = clip["row"]["key"]
        if "tar" in clip:
            return Place(key, self.tars / clip["tar"], clip["offset"])
        return Place(key, self.entry(digest) / clip["row"]["file"])

    def note(self, rows: Iterable[Mapping[str, Any]], of: Mapping[str, str]) -> None:
        """Remember which clips lie in tars now; the files that they were go.

        Args:
            rows: of the catalog.
            of: by key the content of the file that a clip was cut from.
        """
        moved: defaultdict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for row in rows:
            moved[of[row["key"]]][row["key"]] = {"tar": Path(row["file"]).name, "offset": row[TAR_OFFSET]}
        sums: dict[str, str] = {}
        for digest, places in moved.items():
            self._note(self.entry(digest), places, sums)

    def _note(self, entry: Path, places: Mapping[str, Mapping[str, Any]], sums: dict[str, str]) -> None:
        record = json.loads((entry / RECORD).read_text(encoding="utf-8"))
        clips, known = record["clips"], record.get("tars", {})
        told = [{**clip, **places.get(clip["row"]["key"], {})} for clip in clips]
        if told == clips:
            return
        names = sorted({clip["tar"] for clip in told if "tar" in clip})
        for name in names:
            if name not in sums and (name not in known or any(place["tar"] == name for place in places.values())):
                sums[name] = file_digest(self.tars / name)
        record |= {"clips": told, "tars": {name: sums.get(name) or known[name] for name in names}}
        _write(entry, record)
        self._in_tars[entry] = set(names)
        for clip in told:
            if "tar" in clip:
                (entry / clip["row"]["file"]).unlink(missing_ok=True)

    def _sum(self, name: str) -> str:
        """The hash of a tar, which many files' clips share."""
        with self._lock:
            if name not in self._sums:
                self._sums[name] = self.hashed(self.tars / name)
            return self._sums[name]

    @contextlib.contextmanager
    def keeping(self, digest: str) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
        """A folder for the clips of a file and a list for their records; a VideoError is kept as a refusal."""
        entry = self.entry(digest)
        clips: list[dict[str, Any]] = []
        refused: VideoError | None = None
        with whole_folder(entry) as folder:
            (folder / "clips").mkdir()
            try:
                yield folder, clips
                for clip in clips:
                    clip["sha256"] = file_digest(folder / clip["row"]["file"])
                record: dict[str, Any] = {"clips": clips}
            except VideoError as error:
                refused = error
                shutil.rmtree(folder / "clips")
                record = {"reason": error.reason, "detail": str(error)}
            _write(folder, record)
        if refused is not None:
            if refused.reason in UNKEPT:
                shutil.rmtree(entry)
            raise refused

    def prune(self) -> None:
        """Forget what this run did not ask for."""
        for entry in self.folder.iterdir() if self.folder.is_dir() else ():
            if entry.name not in self.asked:
                shutil.rmtree(entry, ignore_errors=True)
        wanted = set().union(*self._in_tars.values())
        for tar in self.tars.iterdir() if self.tars.is_dir() else ():
            if tar.name not in wanted:
                tar.unlink()


def _write(entry: Path, record: Mapping[str, Any]) -> None:
    partial = entry / f".{RECORD}.partial"
    partial.write_text(json.dumps(record, sort_keys=True), encoding="utf-8")
    partial.replace(entry / RECORD)


@contextlib.contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """A folder without what a killed run left in it; gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
