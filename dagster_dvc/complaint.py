"""DVC's complaints with the file and line that stand somewhere down their chain of causes.

DVC says ``unable to read: 'params.yaml', YAML file structure is corrupted`` and keeps where and why to its log.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UNSUPPORTED = re.compile(r"Unsupported value of type '(\w+)' in '(.+):([^:']+)'$")
"""What DVC raises, as a bare TypeError, of a value that it takes nowhere: a date, a set, bytes."""
CONFLICT = re.compile(rb"^[<=>]{7}( |\r?$)", re.MULTILINE)


def place(error: BaseException, root: Path) -> dict[str, Any] | None:
    """``{file, line, message}`` of the file that could not be read, relative to `root`; None where none is named."""
    causes = list(_causes(error))
    if isinstance(error, TypeError) and (found := UNSUPPORTED.search(str(error))):
        kind, named, key = found.groups()
        message = f"{key} is read as a {kind}, which DVC takes for no value; put it in quotes"
        return {"file": named, "line": _line_of(root / named, key), "message": message}
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


def _line_of(path: Path, key: str) -> int:
    """The line (from 1) on which a key such as ``train.lengths.1`` has its value; 1 where it is not found."""
    from ruamel.yaml import YAML, MappingNode, SequenceNode  # here: most files can be read
    from ruamel.yaml.error import YAMLError

    try:
        node = YAML(typ="safe").compose(_bytes(path).decode())
    except (YAMLError, ValueError):
        return 1
    line = 1
    for part in key.split("."):
        if isinstance(node, MappingNode):
            node = next((value for name, value in node.value if name.value == part), None)
        elif isinstance(node, SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
        if node is None:
            return line
        line = node.start_mark.line + 1
    return line


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _line_at(path: Path, offset: int) -> int:
    return _bytes(path)[:offset].count(b"\n") + 1
