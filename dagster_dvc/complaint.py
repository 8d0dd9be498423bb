"""DVC's complaints with the file and line that stand somewhere down their chain of causes.

DVC says ``unable to read: 'params.yaml', YAML file structure is corrupted`` and keeps where and why to its log.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONFLICT = re.compile(rb"^[<=>]{7}( |\r?$)", re.MULTILINE)


def place(error: BaseException, root: Path) -> dict[str, Any] | None:
    """``{file, line, message}`` of the file that could not be read, relative to `root`; None where none is named."""
    causes = list(_causes(error))
    file = next(filter(None, map(_file, causes)), None)
    if file is None:
        return None
    path = root / file
    relative = os.path.relpath(path, root)
    if conflict := CONFLICT.search(_bytes(path)):
        line, why = _line_at(path, conflict.start()), "a merge conflict; keep one side"
    else:
        line, why = next(filter(None, (_where(cause, path) for cause in reversed(causes))), (1, str(causes[-1])))
    last = _line_at(path, len(_bytes(path).rstrip()))  # what is never ended is found behind the last line
    return {"file": relative, "line": min(line, last), "message": " ".join(why.split())}


def in_one_line(error: BaseException, root: Path) -> str:
    """The complaint with file and line in front, where they are known."""
    found = place(error, root)
    return f"{found['file']}:{found['line']}: {found['message']}" if found else " ".join(str(error).split())


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, the one it was raised from, and so on; DVC's checked YAML keeps its own in ``exc``."""
    while error is not None:
        yield error
        held = getattr(error, "exc", None)
        error = error.__cause__ or (held if isinstance(held, BaseException) else None) or error.__context__


def _file(error: BaseException) -> str | None:
    for named in (getattr(error, "path", None), getattr(error, "relpath", None)):
        if isinstance(named, str) and named:
            return named
    found = re.search(r"in file '([^']+)'$", str(error))
    return found.group(1) if found else None


def _where(error: BaseException, path: Path) -> tuple[int, str] | None:
    """Line and reason of one cause: of a YAML, JSON, TOML or Python parser, or of a byte that is no UTF-8."""
    error = _in_python_words(error, path) if hasattr(error, "problem_mark") else error
    mark, begun = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    if mark is not None:
        why = str(getattr(error, "problem", error))
        if begun is None or begun.line == mark.line:
            return mark.line + 1, why
        if "stream end" in why:  # what is never closed is found where it was opened
            return begun.line + 1, f"never ended: {getattr(error, 'context', why)}"
        return mark.line + 1, f"{why} ({getattr(error, 'context', '')} from line {begun.line + 1})"
    if isinstance(error, UnicodeDecodeError):
        return _line_at(path, error.start), f"not UTF-8: {error.reason}; save the file as UTF-8"
    for name in ("lineno", "_line"):
        line = getattr(error, name, None)
        if isinstance(line, int):
            return line, str(getattr(error, "msg", error))
    return None


def _in_python_words(error: BaseException, path: Path) -> BaseException:
    """A YAML mistake as ruamel's parser in Python tells it.

    Where ruamel.yaml.clib is installed DVC reads by libyaml, which names neither the character nor where a list began.
    """
    from ruamel.yaml import YAML  # here: most files can be read
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        YAML(typ="safe", pure=True).load(_bytes(path).decode())
    except MarkedYAMLError as told:
        return told
    except (YAMLError, ValueError):
        return error
    return error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _line_at(path: Path, offset: int) -> int:
    return _bytes(path)[:offset].count(b"\n") + 1
