"""What source files were taken apart into, kept from run to run by the digest of their bytes.

A file that cannot be read, of another Python or of other analysis code counts as none: then everything is parsed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.code.definitions import Definition, Module
from pipelines.code.names import Named

SETS = ("names", "targets", "prefixes", "words")
CHAINS = ("names", "targets")
"""Sets whose items are tuples of words."""


class Kept:
    """The file: of every module its source's digest and what :func:`read_module` found, without its syntax trees."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._by = _analysis()
        self._modules: dict[str, Any] = _read(path).get(self._by) or {}
        self._sources: dict[str, str] = {}
        self._is_new = False

    def find(self, name: str, path: Path, shown: str) -> Module | None:
        """What is kept of a file, where it is the file that it was."""
        try:
            source = self._sources[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            held = self._modules[name]
            return _module(name, path, shown, held) if held["source"] == source else None
        except (OSError, KeyError, TypeError, AttributeError, ValueError):
            return None

    def add(self, module: Module) -> None:
        """Keep a module that :meth:`find` did not know, unless its file was edited between the look and the parsing."""
        with contextlib.suppress(OSError):
            if self._sources.get(module.name) != hashlib.sha256(module.path.read_bytes()).hexdigest():
                return
            self._modules[module.name] = {"source": self._sources[module.name], **_written(module)}
            self._is_new = True

    def save(self) -> None:
        """Write the file, whole or not at all; where it cannot be written, the next run parses again."""
        if not self._is_new:
            return
        partial = self.path.with_name(f".{self.path.name}.partial-{os.getpid()}")
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(exist_ok=True)
            partial.write_text(json.dumps({self._by: self._modules}), encoding="utf-8")
            partial.replace(self.path)
        self._is_new = False


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _analysis() -> str:
    """What decides how a file is taken apart: the modules of this package, and Python's own grammar."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    texts = [f"python {sys.version_info[:2]}".encode(), *(file.read_bytes() for file in files)]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


def _written(module: Module) -> dict[str, Any]:
    definitions = {
        name: {
            **_named(one),
            "annotations": _named(one.annotations),
            "bases": one.bases,
            "has_hook": one.has_hook,
            "digest": one.digest,
        }
        for name, one in module.definitions.items()
    }
    return {
        "doc": module.doc,
        "definitions": definitions,
        "bound": module.bound,
        "imports": module.imports,
        "stars": module.stars,
        "ours": sorted(module.ours),
    }


def _named(named: Named) -> dict[str, Any]:
    sets = {name: sorted(getattr(named, name)) for name in SETS}
    return {**sets, "imports": named.imports, "looks_up": named.looks_up}


def _module(name: str, path: Path, shown: str, held: Mapping[str, Any]) -> Module:
    definitions = {key: _definition(one) for key, one in held["definitions"].items()}
    names = {key: held[key] for key in ("doc", "bound", "imports", "stars")}
    return Module(name, path, shown, definitions=definitions, ours=set(held["ours"]), **names)


def _definition(held: Mapping[str, Any]) -> Definition:
    bases = [tuple(words) for words in held["bases"]]
    annotations = Named(**_sets(held["annotations"]))
    return Definition(
        **_sets(held), annotations=annotations, bases=bases, has_hook=held["has_hook"], digest=held["digest"]
    )


def _sets(held: Mapping[str, Any]) -> dict[str, Any]:
    sets = {name: {tuple(item) for item in held[name]} if name in CHAINS else set(held[name]) for name in SETS}
    return {**sets, "imports": held["imports"], "looks_up": held["looks_up"]}
