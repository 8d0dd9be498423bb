"""The package whose definitions are followed, file by file."""

from __future__ import annotations

from pathlib import Path

from pipelines.code.definitions import Module, read_module
from pipelines.code.kept import Kept
from pipelines.commands import GRAPH

NO_SOURCE = frozenset({".py", ".pyc", ".pyi", ".pyo", ".typed", ".orig", ".rej"})


class Source:
    """The package of that name in the folder ``root``, each file read once and when it is asked for.

    What files were taken apart into is kept in the project's ``.work`` (:meth:`keep`): most of an identity's time is
    parsing, and between two runs few files change.
    """

    def __init__(self, root: Path = Path(), package: str = "pipelines") -> None:
        self.root = root
        self.package = package
        self._modules: dict[str, Module | None] = {}
        self._whole: dict[str, Module] = {}
        self._kept = Kept(root / ".work" / "definitions.json") if (root / GRAPH).is_file() else None

    def is_ours(self, name: str) -> bool:
        """Whether a module is of this package."""
        return name == self.package or name.startswith(f"{self.package}.")

    def find(self, name: str) -> Module | None:
        """The module of that name, None where there is none (or it is not ours).

        Raises:
            CodeError: it is no Python.
        """
        if name not in self._modules:
            self._modules[name] = self._read(name) if self.is_ours(name) else None
        return self._modules[name]

    def _read(self, name: str) -> Module | None:
        place = self.root / Path(*name.split("."))
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                return self._taken_apart(name, path)
        if any(place.glob("**/*.py")):  # a package without __init__.py, as Python takes it
            return Module(name, place / "__init__.py", place.relative_to(self.root).as_posix())
        return None

    def _taken_apart(self, name: str, path: Path) -> Module:
        shown = path.relative_to(self.root).as_posix()
        found = self._kept.find(name, path, shown) if self._kept is not None else None
        if found is None:
            found = self._whole[name] = read_module(name, path, shown)
            if self._kept is not None:
                self._kept.add(found)
        return found

    def said(self, module: Module, name: str) -> str:
        """Docstrings and annotations of a definition; what is kept of a file does not hold them, so it is read."""
        if module.name not in self._whole:
            self._whole[module.name] = read_module(module.name, module.path, module.shown)
        return self._whole[module.name].definitions[name].said()

    def keep(self) -> None:
        """Keep what was taken apart for the next run."""
        if self._kept is not None:
            self._kept.save()

    def submodules(self, name: str) -> list[str]:
        """All modules below a package."""
        folder = self.root / Path(*name.split("."))
        found = []
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(self.root).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        return found

    def other_files(self, folder: Path) -> list[Path]:
        """Files of a package that are no Python, those in folders that are no packages included."""
        found = []
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name.startswith((".", "__")) or path.name.endswith("~") or path.suffix in NO_SOURCE:
                continue
            if path.is_dir():
                found += [] if (path / "__init__.py").is_file() else self.other_files(path)
            else:
                found.append(path)
        return found
