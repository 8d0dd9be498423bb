"""Content hashes of files, remembered by path, size, time of change and inode, as DVC remembers them.

A file that changed less than RECENT_SECONDS before it was read is read again: its next change might bear the same time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from pipelines import stage
from pipelines.stage import file_digest

RECENT_SECONDS = 2.0
Hashed = Callable[[Path], str]
"""SHA-256 of a file's bytes, in hexadecimal."""


class Digests:
    """Hashes of one stage's files; several threads may ask."""

    def __init__(self, file: Path) -> None:
        """``file``: where they are kept; one that cannot be read is as none."""
        self._file = file
        self._known: dict[str, list[int | str]] = {}
        self._asked: dict[str, list[int | str]] = {}
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            self._known = {path: facts for path, facts in known.items() if len(facts) == 4}
        except (OSError, ValueError, AttributeError, TypeError):
            pass

    def of(self, path: Path) -> str:
        """A file's hash; it is read where nothing is known of it, or where it changed."""
        facts = path.stat()
        state: list[int | str] = [facts.st_size, facts.st_mtime_ns, facts.st_ino]
        name = str(path.absolute())
        known = self._known.get(name)
        if known is not None and known[:3] == state:
            self._asked[name] = known
            return str(known[3])
        begin = time.time()
        found = file_digest(path)
        after = path.stat()
        if [after.st_size, after.st_mtime_ns, after.st_ino] == state and facts.st_mtime < begin - RECENT_SECONDS:
            self._asked[name] = [*state, found]
        return found

    def keep(self, finished: bool) -> None:
        """Write what is known; of a ``finished`` run only what it asked for. A disk that refuses costs time later."""
        known = self._asked if finished else {**self._known, **self._asked}
        if known == self._known:
            return
        try:
            partial = self._file.with_name(f".{self._file.name}.partial")
            partial.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(known), encoding="utf-8")
            partial.replace(self._file)
        except OSError as error:
            stage.say(f"{self._file}: cannot be written ({error.strerror}); the next run reads every file again")
