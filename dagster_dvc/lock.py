"""dvc.lock as plain data.

The lock's schema is versioned ("2.0"). DVC writes YAML 1.2, in which ``1e-05`` is a number and ``on`` is a word; the
loader here reads it so. A lock file with conflict markers or broken YAML is one error with file and line.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from weakref import WeakKeyDictionary

import yaml

from dagster_dvc.project import DvcProject, ProjectError


class Yaml12(yaml.CSafeLoader):
    """YAML 1.2 core scalars: what DVC writes."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 (PyYAML's own attribute)


for tag, pattern, first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
):
    Yaml12.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), list(first))


@dataclass(frozen=True)
class Locked:
    """One path as the lock file remembers it."""

    path: str
    hash: str | None
    size: int | None = None
    num_files: int | None = None


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
    digest = lock_digest(project)
    kept = _READ.get(project)
    if kept is not None and kept[0] == digest:
        return kept[1]
    entries: dict[str, Entry] = {}
    contents = {
        file: _contents(project.root / Path(file).with_suffix(".lock"), project.root) for file in _files(project)
    }
    for stage in project.stages.values():
        raw = contents[stage.file].get(stage.name.rsplit(":", 1)[-1])
        if raw:
            entries[stage.name] = entry(raw, stage.wdir)
    _READ[project] = (digest, entries)
    return entries


def entry(raw: Mapping[str, Any], wdir: str = ".") -> Entry:
    """One stage of a lock file, or one file of DVC's run cache, from its YAML."""
    return Entry(
        cmd=raw.get("cmd", ""),
        deps=_locked(raw.get("deps"), wdir),
        outs=_locked(raw.get("outs"), wdir),
        params={_join(wdir, file): values for file, values in (raw.get("params") or {}).items()},
    )


def lock_digest(project: DvcProject) -> str:
    """Hash of the lock files' bytes."""
    files = [project.root / Path(file).with_suffix(".lock") for file in sorted(_files(project))]
    blob = b"\0".join(file.read_bytes() if file.is_file() else b"" for file in files)
    return hashlib.sha256(blob).hexdigest()


def _files(project: DvcProject) -> set[str]:
    return {stage.file for stage in project.stages.values()} | {"dvc.yaml"}


def _contents(path: Path, root: Path) -> dict[str, Any]:
    """The stages of one lock file. DVC rewrites it in place, so a parse error is tried again for a moment."""
    if not path.is_file():
        return {}
    for attempt in range(4):
        text = path.read_text(encoding="utf-8")
        try:
            data = yaml.load(text, Loader=Yaml12) or {}
            return data.get("stages") or {}
        except (yaml.YAMLError, AttributeError) as error:
            if attempt == 3:
                raise ProjectError(_complaint(path.relative_to(root), text, error)) from None
            time.sleep(0.1)
    return {}


def _complaint(path: Path, text: str, error: Exception) -> str:
    conflict = re.search(r"^[<=>]{7}( |$)", text, re.MULTILINE)
    if conflict:
        line = text[: conflict.start()].count("\n") + 1
        return f"{path}:{line}: a merge conflict; keep one side (or delete the file) and run `dvc repro`"
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or "not a DVC lock file"
    return f"{path}:{mark.line + 1 if mark else 1}: {reason}; restore it from git, or delete it and run `dvc repro`"


def _locked(items: list[dict[str, Any]] | None, wdir: str) -> dict[str, Locked]:
    found = {}
    for item in items or []:
        path = _join(wdir, item["path"])
        value = item.get("md5") or item.get("etag") or item.get("checksum")
        found[path] = Locked(path, value, item.get("size"), item.get("nfiles"))
    return found


def _join(wdir: str, path: str) -> str:
    parts: list[str] = []
    for part in (PurePosixPath(wdir) / path).parts:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return str(PurePosixPath(*parts)) if parts else "."
