"""Which video of a folder a table means: tables name files in many ways, and often more than there are."""

from __future__ import annotations

import difflib
import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from pipelines.data.endings import VIDEOS


def written(name: str) -> str:
    """A name as it is compared: composed letters (macOS takes them apart), ``/`` between folders, no ``./``; of an
    address its path."""
    name = unicodedata.normalize("NFC", name.strip())
    if "://" in name[:16]:
        name = unquote(urlsplit(name).path)
    return posixpath.normpath(name.replace("\\", "/")) if name else ""


class Places:
    """The videos of a folder by every name that a table may use.

    A name is relative to the folder or to the table's, or absolute. A bare name without a folder, or an id without an
    ending, means the one file of that name; so does one that differs in small and capital letters. Where nothing of a
    table is here, the folder that all its names share may have another name on this machine: :meth:`leave_out`.
    """

    def __init__(self, root: Path, videos: Sequence[str], table: Path | None = None) -> None:
        self.root = root
        self.videos = list(videos)
        self._exact = {written(video): video for video in videos}
        self._folders = [root.absolute(), root.resolve()]
        self._base = table.parent if table else root
        self._left_out = ""
        self._loose: dict[str, set[str]] = defaultdict(set)
        for name, video in self._exact.items():
            whole, bare = PurePosixPath(name), PurePosixPath(name).name
            for known in (str(whole.with_suffix("")), bare, PurePosixPath(bare).stem, name.casefold(), bare.casefold()):
                self._loose[known].add(video)

    def find(self, name: str) -> tuple[str | None, bool]:
        """The video that a table's name means, and whether by its whole path; None: it is not here, or not clear."""
        name = written(name)
        if self._left_out:
            name = name.removeprefix(self._left_out).lstrip("/")
        for candidate in self._candidates(name):
            if candidate in self._exact:
                return self._exact[candidate], True
        for candidate in (name, name.casefold()):
            found = self._loose.get(candidate, set())
            if len(found) == 1:
                return next(iter(found)), False
        return None, False

    def companions(self, values: Mapping[str, Any], own: str) -> dict[str, str]:
        """Other videos that a row names by their whole path, and in which of its columns."""
        found = {}
        for column, value in values.items():
            if isinstance(value, str) and value != own and value.lower().endswith(VIDEOS):
                video, exact = self.find(value)
                if video is not None and exact:
                    found[video] = column
        return found

    def _candidates(self, name: str) -> Iterable[str]:
        yield name
        absolute = name if posixpath.isabs(name) else posixpath.join(self._base.absolute(), name)
        for folder in self._folders:
            inside = os.path.relpath(os.path.normpath(absolute), os.path.normpath(folder))
            yield written(inside)

    def leave_out(self, names: Iterable[str]) -> None:
        """Take for granted that the folder of all names, or the last parts of it, is another one here."""
        folders = {posixpath.dirname(written(name)) for name in names}
        if not folders or not all(folders):
            return
        shared = posixpath.commonpath(folders) if len({one.startswith("/") for one in folders}) == 1 else ""
        parts = shared.strip("/").split("/") if shared.strip("/") else []
        lead = "/" if shared.startswith("/") else ""
        inside = {posixpath.dirname(name) for name in self._exact}
        for count in range(1, len(parts) + 1):
            left_out = lead + "/".join(parts[:count])
            rest = {folder.removeprefix(left_out).lstrip("/") for folder in folders}
            if rest & inside:
                self._left_out = left_out
                return

    def hint(self, name: str) -> str:
        """What to do about a name that means nothing here."""
        known = list(self._exact)
        close = difflib.get_close_matches(written(name), known[:5000], n=1, cutoff=0.4)
        if close:
            return f"did you mean {self._exact[close[0]]}?"
        return f"names are relative to {self.root} or to the folder of the table."
