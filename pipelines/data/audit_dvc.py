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
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from pipelines.data.audited import Item
from pipelines.document import load
from pipelines.params import PARAMS_FILE
from pipelines.provenance import differing, text_of
from pipelines.stage import CHAIN

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


@dataclass(frozen=True)
class RecordedOut:
    """What a stage made, as ``dvc.lock`` has it: place, hash, and bytes and files where it counts them."""

    path: str
    md5: str
    size: int | None
    count: int | None


def locked(root: Path) -> tuple[list[RecordedOut], dict[str, Any]]:
    """Everything that stages made, and the values of params.yaml that each stage ran with; empty without a dvc.lock.

    Raises:
        ValueError: it is damaged.
    """
    if not (root / LOCK).is_file():
        return [], {}
    try:
        stages: Any = (load((root / LOCK).read_text(encoding="utf-8")) or {})["stages"]
        made = [
            RecordedOut(str(out["path"]), str(out["md5"]), out.get("size"), out.get("nfiles"))
            for one in stages.values()
            for out in one.get("outs") or ()
        ]
        values = {name: (one.get("params") or {}).get(str(PARAMS_FILE)) or {} for name, one in stages.items()}
    except (OSError, KeyError, TypeError, AttributeError, ValueError, YAMLError) as error:
        raise ValueError(f"cannot be read ({' '.join(str(error).split())})") from None
    places = [
        one.path for one in made if not MD5.fullmatch(one.md5) or Path(one.path).is_absolute() or ".." in one.path
    ]
    if places:
        raise ValueError(f"{places[0]}: no place and hash of a file of this project")
    return made, values


def audit(root: Path) -> Iterator[Item]:
    """Every file that stages made, and its copy in the cache; one line for what is whole of an output.

    ``dvc.lock`` itself is held against both: against what lies there, and against the chains that outputs carry.
    """
    try:
        made, values = locked(root)
    except ValueError as error:
        yield Item(LOCK, "does not match", str(error))
        return
    cache, hashes = cache_of(root), _Hashes()
    for out in made:
        yield from _of_out(root, out, cache, hashes)
        yield from _carried(root, out.path, values)


def _of_out(root: Path, out: RecordedOut, cache: Path, hashes: _Hashes) -> Iterator[Item]:
    """The files of an output, what is counted of them, and their copies in the cache."""
    listed = {out.path: out.md5}
    if out.md5.endswith(".dir"):
        try:
            listed = {f"{out.path}/{name}": own for name, own in _listed(cache, out.md5, hashes).items()}
        except FileNotFoundError:
            yield _unlisted(root, out.path, out.md5, hashes)
            return
        except ValueError as error:
            yield Item(f"cache {out.md5}", "does not match", f"the list of files of {out.path}: {error}")
            return
    yield from _out(root, out.path, listed, cache, hashes)
    yield from _counted(root, out, listed)


def _unlisted(root: Path, path: str, md5: str, hashes: _Hashes) -> Item:
    """A folder whose list of files the cache does not have: its hash is that of the list as DVC would write it."""
    ignore = root / ".dvcignore"
    lines = ignore.read_text(encoding="utf-8").splitlines() if ignore.is_file() else []
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    files = [file for file in sorted((root / path).rglob("*")) if file.is_file()]
    if not files:
        return Item(path, "unknown", f"{LOCK} names it by a list that the cache does not have")
    entries = [
        {"md5": hashes.of(file), "relpath": file.relative_to(root / path).as_posix()}
        for file in files
        if not any(fnmatchcase(file.name, pattern) for pattern in patterns)
    ]
    text = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
    found = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    if found == md5.removesuffix(".dir"):
        return Item(path, "verified", f"its {len(entries)} files have the MD5 of {LOCK}; the cache has no list of them")
    said = f"MD5 {found} instead of {md5.removesuffix('.dir')}, which {LOCK} has; the cache has no list of it"
    return Item(path, "does not match", said)


def _counted(root: Path, out: RecordedOut, listed: dict[str, str]) -> Iterator[Item]:
    """What ``dvc.lock`` counts beside the hash, where every file is there."""
    files = [root / name for name in listed]
    if not all(file.is_file() for file in files):
        return
    size = sum(file.stat().st_size for file in files)
    for name, said, found in (("bytes", out.size, size), ("files", out.count, len(files))):
        if said is not None and said != found:
            yield Item(f"{LOCK} {out.path}", "does not match", f"{said} {name}, of which {found} are there")


def _carried(root: Path, path: str, values: dict[str, Any]) -> Iterator[Item]:
    """The values that a stage ran with by ``dvc.lock``, against those that its result carries."""
    try:
        content = json.loads((root / path / CHAIN).read_text(encoding="utf-8"))
        node = content["nodes"][content["artifact"]]
        name, ran_with = node["stage"], node["params"]
        locked_values = values[name][name]
    except (OSError, ValueError, KeyError, TypeError):
        return  # nothing carried, which the audit of the artifact tells; or values of another name
    if isinstance(locked_values, dict) and isinstance(ran_with, dict):
        for key, said, carried in differing(locked_values, ran_with):
            told = f"{name}.{key} is {text_of(said)}, and {text_of(carried)} in the {CHAIN} of {path}"
            yield Item(f"{LOCK} {name}", "does not match", told)


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
