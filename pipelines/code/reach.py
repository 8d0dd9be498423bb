"""Which definitions a function reaches: names followed from module to module, as the interpreter would follow them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipelines.code.definitions import AT_IMPORT, CodeError, Definition, Module
from pipelines.code.source import Source

Key = tuple[str, str]
"""A module's name and a definition's; of a file that is no Python, its path below the package and nothing."""
FALLBACK = "__getattr__"
SAID = frozenset({"__doc__", "__annotations__"})
MODULE_NAME = re.compile(r"\w+(\.\w+)+(:\w+)?")
"""A literal that may be the name of a module, or of something in one: ``python -m pipelines.training.fit``."""
LOOKUP_ATTRIBUTES = frozenset({"__dict__", "__path__", "__all__"})


class ReachedCode:
    """The definitions that some functions reach, with their digests, in ``found``.

    Such a digest takes in what each name in the definition leads to; ``own`` has those of the definitions alone.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.found: dict[Key, str] = {}
        self.own: dict[Key, str] = {}
        self.modules: dict[str, Module] = {}
        self._waiting: list[tuple[Module, str]] = []
        self._led_to: set[str] = set()

    def follow(self, module: str, function: str, with_arguments: bool = False) -> None:
        """Add what the function reaches; ``with_arguments``: and the classes that it says its arguments are of.

        Raises:
            CodeError: a file is no Python, an import leads nowhere, or there is no such function.
        """
        start = self.source.find(module)
        if start is None:
            raise CodeError(f"{module}: no such module; put it there or correct `cmd` in dvc.yaml.")
        if not self._reach(start, (function,)):
            raise CodeError(f"{start.shown}: no {function} in it; put it there or correct `cmd` in dvc.yaml.")
        if with_arguments and function in start.definitions:
            for words in start.definitions[function].annotations.names:
                self._reach(start, words)
        while self._waiting:
            self._definition(*self._waiting.pop())
        self._other_files()

    # ---- definitions ----

    def _add(self, module: Module, name: str, attributes: Iterable[str] = ()) -> None:
        definition = module.definitions[name]
        self._led_to.add(f"{name} {definition.digest}")
        self._led_to |= set() if SAID.isdisjoint(attributes) else {f"{name} says {self.source.said(module, name)}"}
        if (module.name, name) not in self.found:
            self.found[module.name, name] = self.own[module.name, name] = definition.digest
            self._waiting.append((module, name))

    def _definition(self, module: Module, name: str) -> None:
        """Follow all that a definition names; its digest takes in what each name leads to, wherever that stands."""
        definition = module.definitions[name]
        lines = [definition.digest]
        for words in sorted(definition.names):
            self._led_to = set()
            self._reach(module, words)
            lines += [f"{'.'.join(words)}: {found}" for found in sorted(self._led_to)]
        for target, *attributes in sorted(definition.targets):
            self._led_to = set()
            self._target(target, tuple(attributes))
            lines += [f"{target.rpartition(':')[2]}: {found}" for found in sorted(self._led_to)]
        for word in sorted(filter(MODULE_NAME.fullmatch, definition.words)):
            self._led_to = set()
            self._named(word)
            lines += [f"{word}: {found}" for found in sorted(self._led_to)]
        self.found[module.name, name] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        self._imports(module, definition.imports)
        for prefix in definition.prefixes:
            for found in self.source.submodules(self.source.package) if self.source.is_ours(prefix) else ():
                if found.startswith(prefix):
                    self._whole(found)
        if definition.looks_up:
            self._whole(module.name)

    def _named(self, word: str) -> None:
        """Follow a literal that is the name of a module, or of a definition in one (``module:name``)."""
        place, _, member = word.partition(":")
        if self.source.is_ours(place) and self.source.find(place) is not None:
            self._target(word if member else place, () if member else ("*",))

    def _reach(self, module: Module, words: tuple[str, ...]) -> bool:
        """Follow a name of a module with its attributes; False where the module has no such name."""
        name, *attributes = words
        self._enter(module)
        if name in module.definitions:
            self._add(module, name, attributes)
        for target in module.bound.get(name, ()):
            self._target(target, tuple(attributes))
        if name in module.definitions or name in module.bound:
            return True
        for star in module.stars:
            other = self.source.find(star)
            if other is not None and self._reach(other, words):
                return True
        if FALLBACK in module.definitions:
            self._add(module, FALLBACK)
            return True
        return False

    def _target(self, target: str, attributes: tuple[str, ...]) -> None:
        """Follow what an imported name stands for, ``module`` or ``module:name``, and attributes of it."""
        name, _, member = target.partition(":")
        words = (member, *attributes) if member else attributes
        module = self.source.find(name)
        while module is None and "." in name and self.source.is_ours(name):  # `module.name` as one text
            name, _, last = name.rpartition(".")
            module, words = self.source.find(name), (last, *words)
        if module is None:
            return
        while words:
            below = self.source.find(f"{module.name}.{words[0]}")
            if self._reach(module, words) and below is None:
                return
            if below is None:
                if words[0] == "__doc__":
                    self._led_to.add(f"doc {module.doc}")
                elif words[0] in LOOKUP_ATTRIBUTES | {"*"}:
                    self._whole(module.name, words[0] == "__path__")
                elif not words[0].startswith("__"):
                    self._whole(module.name)  # an attribute that somebody sets at run time
                return
            module, words = below, words[1:]
        self._whole(module.name)  # the module itself is handed on

    def _whole(self, name: str, with_submodules: bool = False) -> None:
        module = self.source.find(name)
        if module is not None:
            self._enter(module)
            for definition in module.definitions:
                self._add(module, definition)
            for bound in [*module.bound] if with_submodules else ():
                self._reach(module, (bound,))
        for below in self.source.submodules(name) if with_submodules else ():
            self._whole(below)

    # ---- modules ----

    def _enter(self, module: Module) -> None:
        """A module that is imported: its packages, what it does at import, and what it imports."""
        if module.name in self.modules:
            return
        self.modules[module.name] = module
        led_to, self._led_to = self._led_to, set()
        above = self.source.find(module.name.rpartition(".")[0])
        if above is not None:
            self._enter(above)
        if AT_IMPORT in module.definitions:
            self._add(module, AT_IMPORT)
        self._imports(module, module.imports)
        for name, definition in module.definitions.items():
            if definition.bases and self._is_hooked(module, definition):
                self._add(module, name)
        self._led_to = led_to

    def _imports(self, module: Module, imports: Mapping[str, int]) -> None:
        for target, line in imports.items():
            name, _, member = target.partition(":")
            if not self.source.is_ours(name):
                continue
            found = self.source.find(name)
            if found is None:
                said = f"from {name} import {member}" if member else f"import {name}"
                raise CodeError(f"{module.shown}:{line}: {said}: there is no module {name}; correct the import.")
            self._enter(found)
            if member:
                below = self.source.find(f"{name}.{member}")
                if below is not None:
                    self._enter(below)
                elif not self._has(found, member):
                    raise CodeError(
                        f"{module.shown}:{line}: from {name} import {member}: {found.shown} has no {member}; "
                        "correct the import."
                    )

    def _has(self, module: Module, name: str) -> bool:
        if name in module.definitions or name in module.bound or FALLBACK in module.definitions:
            return True
        others = [(star, self.source.find(star)) for star in module.stars]
        return name.startswith("__") or any(
            self._has(other, name) if other is not None else not self.source.is_ours(star) for star, other in others
        )

    def _is_hooked(self, module: Module, definition: Definition, seen: frozenset[Key] = frozenset()) -> bool:
        """Whether code of ours runs when this class is defined: a base has ``__init_subclass__`` or is a metaclass."""
        for words in definition.bases:
            for holder, name in self._classes(module, words):
                base = holder.definitions[name]
                key = (holder.name, name)
                if key not in seen and (base.has_hook or self._is_hooked(holder, base, seen | {key})):
                    return True
        return False

    def _classes(self, module: Module, words: tuple[str, ...]) -> list[tuple[Module, str]]:
        """Where a base class is defined."""
        if words[0] in module.definitions:
            return [(module, words[0])]
        found = []
        for target in module.bound.get(words[0], ()):
            name, _, member = target.partition(":")
            path = [*name.split("."), *([member] if member else []), *words[1:]]
            for length in range(len(path) - 1, 0, -1):
                holder = self.source.find(".".join(path[:length]))
                if holder is not None:
                    found += self._classes(holder, tuple(path[length:])) if holder is not module else []
                    break
        return found

    # ---- files that are no Python ----

    def _other_files(self) -> None:
        words = {word for key in self.found for word in self._words(key)}
        for folder in sorted({module.path.parent for module in self.modules.values()}):
            files = self.source.other_files(folder)
            beside = self._words_beside(folder) if files else set()
            for path in files:
                if _is_named(path, folder, words) or not _is_named(path, folder, beside):
                    name = path.relative_to(self.source.root).as_posix()
                    self.found[name, ""] = self.own[name, ""] = hashlib.sha256(path.read_bytes()).hexdigest()

    def _words(self, key: Key) -> set[str]:
        module = self.modules.get(key[0])
        return module.definitions[key[1]].words if module is not None else set()

    def _words_beside(self, folder: Path) -> set[str]:
        """Literals of a folder's modules: a file that none of them names is read by one that we cannot tell."""
        package = ".".join(folder.relative_to(self.source.root).parts)
        modules = map(self.source.find, self.source.submodules(package))
        return {word for m in modules if m is not None for d in m.definitions.values() for word in d.words}


def _is_named(path: Path, folder: Path, words: Iterable[str]) -> bool:
    folders = set(path.relative_to(folder).parts[:-1])
    return any(path.name in word or folders & set(word.split("/")) for word in words)
