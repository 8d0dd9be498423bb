"""The identity of every stage's code, and ``code.json``, in which DVC, Dagster and ``reel`` look it up.

A stage's identity is one hash of the definitions that its function reaches. ``code.json`` holds it under the stage's
name, and behind it what a person wants to know when it changed: the digest of every definition, and which stage reaches
which. A definition that moves to another file as it is changes no identity.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.code.definitions import AT_IMPORT, CodeError
from pipelines.code.reach import Key, ReachedCode
from pipelines.code.source import Source
from pipelines.commands import GRAPH, stage_entries, stage_function

CODE_FILE = Path("code.json")
DEFINITIONS, REACHES = ".definitions", ".reaches"
"""Keys of the file that are no stages: no stage's name may have a dot."""
ALWAYS = ("pipelines.params:read_document",)
"""What runs before every stage and decides its numbers: how ``params.yaml`` becomes values."""
SHORT = 12

Parts = dict[str, str]
"""Where a definition stands and its name (``flow/path.py velocity``) -> its digest, and that with all it names."""


@dataclass(frozen=True)
class Identity:
    """One hash, and the definitions behind it."""

    value: str
    parts: Parts


def source_folder() -> Path:
    """The folder whose ``pipelines`` runs: the current one, else where this package is installed."""
    return Path() if Path("pipelines", "__init__.py").is_file() else Path(__file__).parents[2]


def identity(functions: Iterable[str], source: Source | None = None, with_arguments: bool = False) -> Identity:
    """The identity of what some functions (``pipelines.footage.cutting:cut``) reach together.

    ``with_arguments``: the classes of their arguments too, for a stage, whose parameters are made from them.

    Raises:
        CodeError: one of them is not there, a file is no Python, or an import leads nowhere.
    """
    own = source or Source(source_folder())
    reach = ReachedCode(own)
    for function in functions:
        module, _, name = function.partition(":")
        reach.follow(module, name, with_arguments)
    if source is None:
        own.keep()
    lines = {f"{name or place.rpartition('/')[2]} {digest}" for (place, name), digest in reach.found.items()}
    value = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:32]
    parts = {_label(key, reach): reach.own[key][:SHORT] + digest[:SHORT] for key, digest in reach.found.items()}
    return Identity(value, dict(sorted(parts.items())))


def _label(key: Key, reach: ReachedCode) -> str:
    place, name = key
    shown = f"{reach.modules[place].shown} {name}" if name else place
    return shown.removeprefix(f"{reach.source.package}/")


def _own_name(label: str) -> str:
    """A definition's name without its place: what moves stays what it is."""
    place, _, name = label.partition(" ")
    return name or place


def stage_functions(name: str, entry: Mapping[str, Any]) -> list[str]:
    """The functions whose reach is a stage's identity; empty for a stage that launches none of ours.

    Raises:
        CodeError: the stage looks up another stage's identity, or its command names no function.
    """
    launched = stage_function(entry)
    for word in entry.get("params") or ():
        keys = word.get(CODE_FILE.name) if isinstance(word, dict) else None
        if keys is not None and (keys != [name] or launched is None):
            found = f"stage {name}: params: {CODE_FILE}: {keys}"
            raise CodeError(f"{GRAPH}: {found}: a stage tracks its own code: {CODE_FILE}: [{name}].")
    if launched is None:
        return []
    if not all(launched):
        raise CodeError(f"{GRAPH}: stage {name}: `cmd` names no module and function behind pipelines.launch.")
    return [f"{launched[0]}:{launched[1]}", *ALWAYS]


def stage_identity(name: str, entry: Mapping[str, Any], source: Source | None = None) -> Identity | None:
    """The identity of one stage's code; None for a stage that launches none of ours.

    Raises:
        CodeError: what cannot be understood, with file and line and the stage.
    """
    functions = stage_functions(name, entry)
    if not functions:
        return None
    own = source or Source(source_folder())
    try:
        found = identity([one for one in functions if one not in ALWAYS or _is_there(one, own)], own, True)
    except CodeError as error:
        raise CodeError(f"{error} (stage {name})") from None
    if source is None:
        own.keep()
    return found


def _is_there(function: str, source: Source) -> bool:
    """A project that starts its stages by its own launcher reads no parameters of ours."""
    module, name = function.split(":")
    found = source.find(module)
    return found is not None and name in {*found.definitions, *found.bound}


def identities(folder: Path | None = None) -> dict[str, Identity]:
    """The identity of every stage in the folder's dvc.yaml.

    Raises:
        CodeError: what cannot be understood, with file and line and the stage.
    """
    source = Source(folder if folder is not None else source_folder())
    entries = stage_entries((folder or Path()) / GRAPH)
    found = {name: stage_identity(name, entry, source) for name, entry in entries.items()}
    source.keep()
    return {name: one for name, one in found.items() if one is not None}


# ---- code.json ----------------------------------------------------------------------------------------------------


def content(found: Mapping[str, Identity]) -> dict[str, Any]:
    """What the file holds: identities by stage, digests by file and definition, and by stage what it reaches."""
    definitions: dict[str, dict[str, str]] = {}
    for one in found.values():
        for label, digest in one.parts.items():
            place, _, name = label.partition(" ")
            definitions.setdefault(place, {})[name] = digest
    reaches = {stage: {place: " ".join(names) for place, names in _by_place(one)} for stage, one in found.items()}
    table = {place: dict(sorted(definitions[place].items())) for place in sorted(definitions)}
    return {**{stage: one.value for stage, one in found.items()}, DEFINITIONS: table, REACHES: reaches}


def _by_place(one: Identity) -> Iterator[tuple[str, list[str]]]:
    places: dict[str, list[str]] = {}
    for label in one.parts:
        place, _, name = label.partition(" ")
        places.setdefault(place, []).append(name)
    yield from places.items()


def write(found: Mapping[str, Identity], path: Path = CODE_FILE) -> bool:
    """Write the file, whole or not at all; False where it held the same before."""
    text = json.dumps(content(found), indent=0) + "\n"
    if path.is_file() and path.read_bytes() == text.encode():
        return False
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return True


def read(path: Path = CODE_FILE) -> dict[str, Any]:
    """The file's content; empty where it is missing or is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def parts_of(held: Mapping[str, Any], stage: str) -> Parts:
    """The definitions of a stage in a file's content; empty where it does not say, or says nonsense."""
    table, reaches = held.get(DEFINITIONS), (held.get(REACHES) or {})
    try:
        places = reaches[stage].items()
        return {
            f"{place} {name}".strip(): table[place][name]  # type: ignore[index]
            for place, names in places
            for name in names.split(" ")
        }
    except (AttributeError, KeyError, TypeError):
        return {}


def changed(before: Parts, after: Parts) -> list[str]:
    """The definitions that differ, by place and name; what only moved is none.

    Where all are what they were, those that name another one than before.
    """
    return _changed(before, after, SHORT) or _changed(before, after, 2 * SHORT)


def _changed(before: Parts, after: Parts, length: int) -> list[str]:
    was, now = ({(_own_name(label), digest[:length]) for label, digest in parts.items()} for parts in (before, after))
    every = {*before.items(), *after.items()}
    labels = {label for label, digest in every if (_own_name(label), digest[:length]) not in was & now}
    return sorted(label.removesuffix(f" {AT_IMPORT}") for label in labels)


def settle(stage: str, entry: Mapping[str, Any], now: Identity) -> bool:
    """Make ``code.json`` say what a stage that tracks it runs with; True where it said something else.

    ``dvc repro --single-item`` runs no other stage before this one, and DVC records what the file says at the end.

    Raises:
        CodeError: another stage's code cannot be understood.
    """
    tracks = any(isinstance(word, dict) and CODE_FILE.name in word for word in entry.get("params") or ())
    if not tracks or read().get(stage) == now.value:
        return False
    return write(identities())
