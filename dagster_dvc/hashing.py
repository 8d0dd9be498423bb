"""Content hashes as DVC computes them (md5 of a file; md5 of the sorted listing of a folder), without importing dvc.

Hashes of files are remembered by modification time, size and inode; a file touched in the last two seconds is not
remembered, since a later edit within the clock's resolution could not be seen.
"""

import contextlib
import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pathspec

ALWAYS_IGNORED = (".dvc/", ".git/", ".hg/", ".dvcignore")


class Hashes:
    """Hashes of paths inside the project at `root`, with a memory in the JSON file `kept`."""

    def __init__(self, root: Path, kept: Path) -> None:
        self.root = root
        self._file = kept
        self._memory = _read(kept)
        self._dirty = False
        self._held: dict[str, str | None] | None = None

    def of(self, path: str) -> str | None:
        """The DVC hash of a file or folder (folders end in ``.dir``), or None where nothing is there."""
        if self._held is None:
            return self._look(path)
        if path not in self._held:
            self._held[path] = self._look(path)
        return self._held[path]

    def _look(self, path: str) -> str | None:
        full = self.root / path
        if full.is_dir():
            return self._folder(full)
        return self._md5(str(full), self._relative(full)) if full.is_file() else None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, every path is looked at once: many stages read the same folders."""
        outer, self._held = self._held, {} if self._held is None else self._held
        try:
            yield
        finally:
            self._held = outer

    def save(self) -> None:
        """Keep the memory for the next process."""
        if not self._dirty:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(self._memory), encoding="utf-8")
        partial.replace(self._file)
        self._dirty = False

    def files(self, folder: Path) -> Iterator[Path]:
        """Files of a folder that DVC looks at: without what a ``.dvcignore`` names. It may lie outside the project."""
        yield from (folder / inside for inside, _ in self._listed(folder))

    def _listed(self, folder: Path) -> Iterator[tuple[str, str]]:
        """Of every such file its place in the folder and in the project. As text: folders hold many thousand files."""
        ignored = self._ignored(folder if folder.is_relative_to(self.root) else self.root)
        top, length = self._relative(folder), len(str(folder)) + 1
        for parent, folders, files in os.walk(folder):
            inside = f"{parent[length:]}/".replace(os.sep, "/").removeprefix("/")
            place = inside if top == "." else f"{top}/{inside}"
            folders[:] = [name for name in folders if not ignored.match_file(f"{place}{name}/")]
            yield from ((inside + name, place + name) for name in files if not ignored.match_file(place + name))

    def _folder(self, folder: Path) -> str:
        found = self._listed(folder)
        entries = [{"md5": self._md5(f"{folder}/{inside}", key), "relpath": inside} for inside, key in found]
        entries.sort(key=lambda entry: entry["relpath"])
        return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"

    def _relative(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.root)).as_posix()

    def _ignored(self, folder: Path) -> pathspec.PathSpec:
        """The rules of every .dvcignore from the root down into `folder`; rules of a nested file hold below it."""
        lines = list(ALWAYS_IGNORED)
        above = [parent for parent in [*reversed(folder.parents), folder] if parent.is_relative_to(self.root)]
        for place in above:
            file = place / ".dvcignore"
            if file.is_file():
                prefix = "" if place == self.root else self._relative(place)
                lines += [_below(prefix, line) for line in file.read_text(encoding="utf-8").splitlines()]
        return pathspec.PathSpec.from_lines("gitignore", [line for line in lines if line])

    def _md5(self, path: str, key: str) -> str:
        facts = Path(path).stat()
        mark = [facts.st_mtime_ns, facts.st_size, facts.st_ino]
        known = self._memory.get(key)
        if known and known[:3] == mark:
            return known[3]
        with Path(path).open("rb") as stream:
            value = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if time.time_ns() - facts.st_mtime_ns > 2_000_000_000:
            self._memory[key] = [*mark, value]
            self._dirty = True
        return value


def _below(prefix: str, line: str) -> str:
    text = line.strip()
    if not text or text.startswith("#") or not prefix:
        return text
    negated, pattern = ("!", text[1:]) if text.startswith("!") else ("", text)
    anywhere = "" if "/" in pattern.rstrip("/") else "**/"
    return f"{negated}/{prefix}/{anywhere}{pattern.lstrip('/')}"


def _read(file: Path) -> dict[str, Any]:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def holds_code(path: Path) -> bool:
    """Whether Python lies among a folder's first few thousand files; data folders may hold millions."""
    return path.is_dir() and any(file.suffix == ".py" for file in itertools.islice(path.rglob("*"), 5000))


def sha256_of(path: Path) -> str | None:
    """SHA-256 of a file's bytes, in hexadecimal; None where there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
