"""A YAML file of parameters as values, with the line of every key, for messages that say where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PARAMS_FILE = Path("params.yaml")


class ParamsError(ValueError):
    """A mistake in the parameters, told in one or two lines per mistake: file, line, key, remedy."""


def _lines(node: yaml.Node, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], int]:
    """The line (from 1) of every key path of a composed YAML document."""
    found = {path: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            found |= _lines(value, (*path, key.value))
            found[(*path, key.value)] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            found |= _lines(value, (*path, index))
    return found


def _duplicates(node: yaml.Node, path: tuple[Any, ...] = ()) -> list[tuple[int, str]]:
    """Keys that stand twice in one mapping: YAML silently keeps the last."""
    found: list[tuple[int, str]] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                found.append((key.start_mark.line + 1, ".".join(map(str, (*path, key.value)))))
            seen.add(key.value)
            found += _duplicates(value, (*path, key.value))
    return found


def read_document(path: Path = PARAMS_FILE) -> tuple[dict[str, Any], dict[tuple[Any, ...], int]]:
    """The parameters file as a dictionary, and the line of every key.

    Raises:
        ParamsError: the file is missing, not YAML, not a mapping, or states a key twice.
    """
    if not path.is_file():
        raise ParamsError(f"{path}: no such file. Run from the project's root, where params.yaml and dvc.yaml are.")
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ParamsError(f"{where}: not readable as YAML: {getattr(error, 'problem', error)}.") from None
    if node is None or not isinstance(values, dict):
        raise ParamsError(f"{path}: expected sections (a mapping), found {type(values).__name__}.")
    twice = _duplicates(node)
    if twice:
        raise ParamsError("\n".join(f"{path}:{line}: {key} is stated twice; keep one." for line, key in twice))
    return values, _lines(node)
