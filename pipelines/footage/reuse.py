"""What was cut before is not cut again: clips and refusals kept per source file, by content, in ``.work``.

An entry is named by the file's content, everything that shapes its clips, and the code that cuts them, so that a rename
or a new caption finds it and any other change does not. It is whole or absent, and its clips are checked when used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.code.stages import identity
from pipelines.data.limits import VideoError
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
        self.folder, self.hashed = folder, hashed
        self.shape = {**shape, "code": code_digest()}
        self.asked: set[str] = set()

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
            whole = all(self.hashed(entry / clip["row"]["file"]) == clip["sha256"] for clip in record["clips"])
        except (OSError, json.JSONDecodeError):
            return None
        return record["clips"] if whole else None

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
            (folder / RECORD).write_text(json.dumps(record, sort_keys=True), encoding="utf-8")
        if refused is not None:
            if refused.reason in UNKEPT:
                shutil.rmtree(entry)
            raise refused

    def prune(self) -> None:
        """Forget what this run did not ask for."""
        for entry in self.folder.iterdir() if self.folder.is_dir() else ():
            if entry.name not in self.asked:
                shutil.rmtree(entry, ignore_errors=True)


@contextlib.contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """A folder without what a killed run left in it; gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
