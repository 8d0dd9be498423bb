"""Content hashes as DVC computes them (md5 of a file; md5 of the sorted listing of a folder), without importing dvc.

Hashes of files are remembered by modification time, size and inode; a file touched in the last two seconds is not
remembered, since a later edit within the clock's resolution could not be seen.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any

ALWAYS_IGNORED = (".dvc/", ".git/", ".git", ".hg/")
NO_HASH = "cannot be hashed"
LEGACY = "\0DVC 2"
"""Behind the name of a file in the memory of hashes."""
PIECE, HEAD = 2**20, 512
TEXT = bytes(range(32, 127)) + b"\n\r\t\f\b"
"""Bytes of texts. Of DVC: dvc_data.hashfile.istextfile."""


class Hashes:
    """Hashes of paths inside the project at `root`, with a memory in the JSON file `kept`."""

    def __init__(self, root: Path, kept: Path) -> None:
        self.root = root
        self.refused: dict[str, str] = {}
        """By path why DVC takes no hash of what is there."""
        self._file = kept
        self._dirty = False
        self._held: dict[tuple[str, bool], str | None] | None = None

    @cached_property
    def _memory(self) -> dict[str, Any]:
        return _read(self._file)

    def of(self, path: str, *, is_legacy: bool = False) -> str | None:
        """The DVC hash of a file or folder (folders end in ``.dir``), or None where nothing is there.

        Of what DVC refuses (a ``.dvcignore`` inside, a link to nowhere, a file that may not be read) it is `NO_HASH`,
        which nothing recorded equals; `refused` says why. The hash of DVC 2 (`is_legacy`) takes the line ends of texts
        for one.
        """
        if self._held is None:
            return self._look(path, is_legacy)
        if (path, is_legacy) not in self._held:
            self._held[path, is_legacy] = self._look(path, is_legacy)
        return self._held[path, is_legacy]

    def _look(self, path: str, is_legacy: bool) -> str | None:
        full = self.root / path
        try:
            if full.is_dir():
                return self._folder(full, is_legacy)
            return self._known(str(full), self._relative(full), full.stat(), is_legacy) if full.is_file() else None
        except OSError as error:
            self.refused[path] = f"{self._relative(Path(error.filename or full))}: {error.strerror or error}"
            return NO_HASH

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
        yield from (Path(path) for path, _ in self._walk(folder))

    def _walk(self, folder: Path) -> Iterator[tuple[str, os.stat_result]]:
        """Files of a folder and their facts; text in place of paths, as there may be hundreds of thousands."""
        is_ignored = self._ignored(folder if folder.is_relative_to(self.root) else self.root)
        todo = [(str(folder), self._relative(folder))]
        while todo:
            place, below = todo.pop()
            prefix = "" if below == "." else f"{below}/"
            if prefix and os.path.lexists(f"{place}/.dvc"):
                continue  # a project of its own, of which DVC sees nothing
            with os.scandir(place) as entries:
                for entry in entries:
                    name = f"{prefix}{entry.name}"
                    if entry.is_dir():
                        if not entry.is_symlink() and not is_ignored(f"{name}/"):
                            todo.append((entry.path, name))
                    elif not is_ignored(name):
                        yield entry.path, entry.stat()

    def linked(self, folder: Path) -> list[Path]:
        """Linked folders inside of a folder: DVC does not look into them."""
        is_ignored = self._ignored(folder if folder.is_relative_to(self.root) else self.root)
        found = []
        for parent, folders, _ in os.walk(folder):
            here = [Path(parent) / name for name in folders]
            seen = [path for path in here if not is_ignored(f"{self._relative(path)}/")]
            found += [path for path in seen if path.is_symlink()]
            folders[:] = [path.name for path in seen]
        return sorted(found)

    def _folder(self, folder: Path, is_legacy: bool) -> str:
        start, prefix = len(str(folder)) + 1, self._relative(folder)
        entries = []
        for path, facts in self._walk(folder):
            inside = path[start:]
            if path.endswith("/.dvcignore"):
                raise OSError(0, "DVC takes no .dvcignore inside of what it hashes; move it further up", path)
            entries.append({"md5": self._known(path, f"{prefix}/{inside}", facts, is_legacy), "relpath": inside})
        entries.sort(key=lambda entry: entry["relpath"])
        return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"

    def _relative(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.root)).as_posix()

    def _ignored(self, folder: Path) -> Callable[[str], bool]:
        """By the rules of every .dvcignore from the root down into `folder`; rules of a nested file hold below it."""
        lines = list(ALWAYS_IGNORED)
        above = [parent for parent in [*reversed(folder.parents), folder] if parent.is_relative_to(self.root)]
        for place in above:
            file = place / ".dvcignore"
            if file.is_file():
                prefix = "" if place == self.root else self._relative(place)
                lines += [_below(prefix, line) for line in file.read_text(encoding="utf-8").splitlines()]
        return _matcher(tuple(line for line in lines if line))

    def _known(self, path: str, key: str, facts: os.stat_result, is_legacy: bool) -> str:
        """The hash of a file, from memory where its facts are the same."""
        mark, key = [facts.st_mtime_ns, facts.st_size, facts.st_ino], f"{key}{LEGACY}" if is_legacy else key
        known = self._memory.get(key)
        if known and known[:3] == mark:
            return known[3]
        with Path(path).open("rb") as stream:
            value = (_legacy_digest if is_legacy else _digest)(stream)
        if time.time_ns() - facts.st_mtime_ns > 2_000_000_000:
            self._memory[key] = [*mark, value]
            self._dirty = True
        return value


def _digest(stream: BufferedReader) -> str:
    return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _legacy_digest(stream: BufferedReader) -> str:
    """As DVC 2 hashed: every piece that looks like text with its line ends made one."""
    found = hashlib.md5(usedforsecurity=False)
    while piece := stream.read(PIECE):
        head = piece[:HEAD]
        is_text = b"\0" not in head and len(head.translate(None, TEXT)) <= 0.3 * len(head)
        found.update(piece.replace(b"\r\n", b"\n") if is_text else piece)
    return found.hexdigest()


@lru_cache(maxsize=64)
def _matcher(lines: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a path is ignored; one expression where no line takes another one back, which is many times faster."""
    import pathspec  # here: many commands look into no folder

    spec = pathspec.PathSpec.from_lines("gitignore", lines)
    found = [pattern for pattern in spec.patterns if pattern.include is not None]
    if not all(pattern.include for pattern in found):
        return spec.match_file
    plain = [re.sub(r"\?P<\w+>", "?:", pattern.regex.pattern) for pattern in found]  # type: ignore[attr-defined]
    matches = re.compile("|".join(f"(?:{one})" for one in plain)).match
    return lambda path: matches(path) is not None


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
