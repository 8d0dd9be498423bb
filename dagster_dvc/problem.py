"""What is wrong with a project, as an error and as a line of a list."""

from typing import NamedTuple


class ProjectError(ValueError):
    """The project cannot be read: what, where (file and line where known) and what to do."""


class Problem(NamedTuple):
    """What DVC could not resolve, and where."""

    stage: str | None
    message: str
    file: str
    line: int

    def __str__(self) -> str:
        name = f"stage '{self.stage}': " if self.stage else ""
        return f"{self.file}:{self.line}: {name}{self.message}"
