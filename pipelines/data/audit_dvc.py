"""A project's files and DVC's cache against ``dvc.lock``: every byte by its MD5, read without DVC.

The layout is that of DVC 3: an object lies at ``files/md5/ab/cdef…`` in the cache, a folder is an object
``….dir`` that lists its files with their hashes.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from pipelines.data.audited import Item
from pipelines.document import load

LOCK = "dvc.lock"
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass
class _Hashes:
    """MD5 by file; a file that has two names (a hard link into the cache) is read once."""

    known: dict[tuple[int, int], str] = field(default_factory=dict)

    def of(self, path: Path) -> str:
        facts = path.stat()
        place = (facts.st_dev, facts.st_ino)
        if place not in self.known:
            with path.open("rb") as stream:
                self.known[place] = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        return self.known[place]


def cache_of(root: Path) -> Path:
    """DVC's cache of a project, which its configuration may have put anywhere."""
    place = ".dvc/cache"
    for name in ("config", "config.local"):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string("\n".join(map(str.strip, (root / ".dvc" / name).read_text("utf-8").splitlines())))
        except (OSError, ValueError, configparser.Error):
            continue
        given = parser.get("cache", "dir", fallback=None)
        place = str(Path(".dvc") / given) if given else place
    return root / place / "files" / "md5"


def outs(root: Path) -> list[tuple[str, str]]:
    """Place and hash of everything that stages made, as ``dvc.lock`` has it; empty where there is none.

    Raises:
        ValueError: it is damaged.
    """
    if not (root / LOCK).is_file():
        return []
    try:
        stages: Any = (load((root / LOCK).read_text(encoding="utf-8")) or {})["stages"]
        found = [(str(out["path"]), str(out["md5"])) for one in stages.values() for out in one.get("outs") or ()]
    except (OSError, KeyError, TypeError, AttributeError, ValueError, YAMLError) as error:
        raise ValueError(f"cannot be read ({' '.join(str(error).split())})") from None
    if bad := [path for path, md5 in found if not MD5.fullmatch(md5) or Path(path).is_absolute() or ".." in path]:
        raise ValueError(f"{bad[0]}: no place and hash of a file of this project")
    return found


def audit(root: Path) -> Iterator[Item]:
    """Every file that stages made, and its copy in the cache; one line for what is whole of an output."""
    try:
        made = outs(root)
    except ValueError as error:
        yield Item(LOCK, "does not match", str(error))
        return
    cache, hashes = cache_of(root), _Hashes()
    for path, md5 in made:
        listed = {path: md5}
        if md5.endswith(".dir"):
            try:
                listed = {f"{path}/{name}": own for name, own in _listed(cache, md5, hashes).items()}
            except FileNotFoundError:
                yield Item(path, "unknown", f"{LOCK} names it by a list that the cache does not have")
                continue
            except ValueError as error:
                yield Item(f"cache {md5}", "does not match", f"the list of files of {path}: {error}")
                continue
        yield from _out(root, path, listed, cache, hashes)


def _out(root: Path, path: str, listed: dict[str, str], cache: Path, hashes: _Hashes) -> Iterator[Item]:
    good = kept = 0
    for name, md5 in listed.items():
        file, kept_as = root / name, cache / md5[:2] / md5[2:]
        if not file.is_file():
            yield Item(name, "missing", f"{LOCK} names it")
        elif hashes.of(file) != md5:
            yield Item(name, "does not match", f"MD5 {hashes.of(file)[:12]} instead of {md5[:12]}, which {LOCK} has")
        else:
            good += 1
        if kept_as.is_file():
            if hashes.of(kept_as) == md5:
                kept += 1
            else:
                yield Item(f"cache {md5[:2]}/{md5[2:]}", "does not match", f"the kept copy of {name} is another file")
    if good:
        said = f"{good} of {len(listed)} files have the MD5 of {LOCK}; {kept} whole in the cache"
        yield Item(path, "verified", said)


def _listed(cache: Path, md5: str, hashes: _Hashes) -> dict[str, str]:
    """Files of a folder with their hashes, by the list that the cache keeps of it."""
    path = cache / md5[:2] / md5[2:]
    if hashes.of(path) != md5.removesuffix(".dir"):
        raise ValueError("another content than its name says")
    entries = json.loads(path.read_text(encoding="utf-8"))
    return {entry["relpath"]: entry["md5"] for entry in entries}
