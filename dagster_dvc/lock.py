"""dvc.lock as plain data. Its schema is versioned ("2.0").

Its values are kept as JSON beside the digest of the text that they were read from: the YAML takes ten times as long.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from weakref import WeakKeyDictionary

from dagster_dvc.project import DvcProject, ProjectError

KEPT = "lock.json"
TRIES = 4
"""DVC rewrites the file in place, so a text that cannot be read is looked at again for a moment."""


@dataclass(frozen=True)
class Locked:
    """One path as the lock file remembers it."""

    path: str
    hash: str | None
    size: int | None = None
    num_files: int | None = None
    written: str = ""
    """The path as dvc.yaml had it: ``./a`` and ``a`` are two for DVC."""
    is_legacy: bool = False
    """Hashed by DVC 2, which took the line ends of texts for one, and kept in its cache."""


@dataclass(frozen=True)
class Entry:
    """One stage as the lock file remembers it; paths are relative to the project."""

    cmd: str | list[str]
    deps: dict[str, Locked]
    outs: dict[str, Locked]
    params: dict[str, dict[str, Any]]


_READ: WeakKeyDictionary[DvcProject, tuple[str, dict[str, Entry]]] = WeakKeyDictionary()
"""By project the digest of its lock files and what they say."""


def read_lock(project: DvcProject) -> dict[str, Entry]:
    """Every stage that has been recorded, by name. Empty without a lock file.

    Raises:
        ProjectError: the file is no valid lock file, with file and line.
    """
    for attempt in range(TRIES):
        texts = _texts(project)
        digest, kept = _digest(texts), _READ.get(project)
        if kept is not None and kept[0] == digest:
            return kept[1]
        try:
            contents = _contents(project, texts)
            break
        except ProjectError:
            if attempt == TRIES - 1:
                raise
            time.sleep(0.1)
    entries: dict[str, Entry] = {}
    for stage in project.stages.values():
        raw = contents[stage.file].get(stage.name.rsplit(":", 1)[-1])
        if raw:
            entries[stage.name] = entry(raw, stage.wdir, stage.written)
    _READ[project] = (digest, entries)
    return entries


def entry(raw: Mapping[str, Any], wdir: str = ".", written: Mapping[str, str] | None = None) -> Entry:
    """One stage of a lock file, or one file of DVC's run cache, from its YAML.

    `written` are the paths of the stage as dvc.yaml has them: values of a params file that was written otherwise are
    left out, as DVC does not find them.
    """
    params = {_join(wdir, file): (file, values) for file, values in (raw.get("params") or {}).items()}
    return Entry(
        cmd=raw.get("cmd", ""),
        deps=_locked(raw.get("deps"), wdir),
        outs=_locked(raw.get("outs"), wdir),
        params={path: values for path, (file, values) in params.items() if (written or {}).get(path, file) == file},
    )


def lock_digest(project: DvcProject) -> str:
    """Hash of the lock files' bytes."""
    return _digest(_texts(project))


def _texts(project: DvcProject) -> dict[str, bytes]:
    """The bytes of every lock file, by the dvc.yaml that it belongs to; none where there is no file."""
    files = {file: project.root / Path(file).with_suffix(".lock") for file in sorted(_files(project))}
    return {file: path.read_bytes() or b"\n" if path.is_file() else b"" for file, path in files.items()}


def _digest(texts: Mapping[str, bytes]) -> str:
    return hashlib.sha256(b"\0".join(texts.values())).hexdigest()


def _contents(project: DvcProject, texts: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """The entries of each lock file, from the kept values where these are of the same bytes."""
    file, of = project.scratch / KEPT, {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["of"] == of:
            return kept["stages"]
    if not any(texts.values()):
        return {name: {} for name in texts}
    from dagster_dvc import lock_file  # here: where the values are kept no YAML is read

    found = {name: lock_file.stages(text, Path(name).with_suffix(".lock")) for name, text in texts.items()}
    with contextlib.suppress(OSError, TypeError):  # no place for it, or a value that JSON has not
        said = json.dumps({"of": of, "stages": found})
        if repr(json.loads(said)["stages"]) == repr(found):  # a key that is no text would become one
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f"lock.{os.getpid()}.partial")
            partial.write_text(said, encoding="utf-8")
            partial.replace(file)
    return found


def _files(project: DvcProject) -> set[str]:
    return {stage.file for stage in project.stages.values()} | {"dvc.yaml"}


def _locked(items: list[dict[str, Any]] | None, wdir: str) -> dict[str, Locked]:
    found = {}
    for item in items or []:
        path = _join(wdir, item["path"])
        value = item.get("md5") or item.get("etag") or item.get("checksum")
        is_legacy = "md5" in item and "hash" not in item
        found[path] = Locked(path, value, item.get("size"), item.get("nfiles"), item["path"], is_legacy)
    return found


def _join(wdir: str, path: str) -> str:
    if "://" in path:
        return path
    parts: list[str] = []
    for part in (PurePosixPath(wdir) / path).parts:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return str(PurePosixPath(*parts)) if parts else "."
