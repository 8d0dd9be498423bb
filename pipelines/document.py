"""A YAML file as values and as text: read as DVC reads it, with the line of every key; written so too.

DVC reads ``params.yaml`` and ``dvc.yaml`` with ruamel.yaml, as YAML 1.2: ``on`` and ``no`` are words, ``010`` is ten,
``1:30`` is text, ``1e-4`` is a number. A second reader that thinks otherwise trains with other values than those that
``dvc.lock`` records, so everything here goes through :func:`load`.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, MappingNode, Node, SequenceNode
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

PARAMS_FILE = Path("params.yaml")
WIDTH = 2**30
"""No line that is written is broken."""


class ParamsError(ValueError):
    """A mistake in the parameters, told in one or two lines per mistake: file, line, key, remedy."""


def _lines(node: Node, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], int]:
    """The line (from 1) of every key path of a composed YAML document."""
    found = {path: node.start_mark.line + 1}
    if isinstance(node, MappingNode):
        for key, value in node.value:
            found |= _lines(value, (*path, key.value))
            found[(*path, key.value)] = key.start_mark.line + 1
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            found |= _lines(value, (*path, index))
    return found


def _duplicates(node: Node, path: tuple[Any, ...] = ()) -> list[tuple[int, str]]:
    """Keys that stand twice in one mapping."""
    found: list[tuple[int, str]] = []
    if isinstance(node, MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key.value, str):
                continue
            if key.value in seen:
                found.append((key.start_mark.line + 1, ".".join(map(str, (*path, key.value)))))
            seen.add(key.value)
            found += _duplicates(value, (*path, key.value))
    return found


@lru_cache(maxsize=16)
def _read(text: str) -> tuple[Any, dict[tuple[Any, ...], int], tuple[tuple[int, str], ...]]:
    """Values, lines of keys and keys that stand twice (then there are no values)."""
    reader = YAML(typ="safe")
    node = reader.compose(text)
    if node is None:
        return None, {}, ()
    twice = tuple(_duplicates(node))
    return (None if twice else reader.constructor.construct_document(node)), _lines(node), twice


def load(text: str) -> Any:
    """The value of a YAML text as DVC reads it.

    Raises:
        ruamel.yaml.error.YAMLError: it is no YAML, or states a key twice. ValueError: a date that does not exist.
    """
    values, _, twice = _read(text)
    if twice:
        raise YAMLError("; ".join(f"line {line}: {key} is stated twice" for line, key in twice))
    return copy.deepcopy(values)


def read_document(path: Path = PARAMS_FILE) -> tuple[dict[str, Any], dict[tuple[Any, ...], int]]:
    """The parameters file as a dictionary, and the line of every key.

    Raises:
        ParamsError: the file is missing, not YAML, not a mapping, or states a key twice.
    """
    if not path.is_file():
        raise ParamsError(f"{path}: no such file. Run from the project's root, where params.yaml and dvc.yaml are.")
    try:
        values, lines, twice = _read(path.read_text(encoding="utf-8"))
    except (YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        told = (str(getattr(error, "problem", None) or error).splitlines() or [type(error).__name__])[0]
        raise ParamsError(f"{where}: not readable as YAML: {told}.") from None
    if twice:
        raise ParamsError("\n".join(f"{path}:{line}: {key} is stated twice; keep one." for line, key in twice))
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: expected sections (a mapping), found {type(values).__name__}.")
    return copy.deepcopy(values), dict(lines)


# ---- writing ------------------------------------------------------------------------------------------------------


class Whole(dict[str, Any]):
    """A block that replaces the present one; any other is merged into it key by key."""


class Representer(RoundTripRepresenter):
    """Numbers and nulls in spellings that YAML 1.1 and 1.2 both read so: ``1.0e-09``, ``null``."""

    def ignore_aliases(self, data: Any) -> bool:
        """A block that two sections share is written out twice."""
        return True


def _float(representer: RoundTripRepresenter, value: float) -> Any:
    digits, exponent, power = repr(value).partition("e")
    special = {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}.get(digits)
    text = special or (digits if "." in digits else f"{digits}.0") + exponent + power
    return representer.represent_scalar("tag:yaml.org,2002:float", text)


Representer.add_representer(float, _float)
Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))
Representer.add_representer(Whole, lambda self, block: self.represent_dict(dict(block)))


class _Tagging(Representer):
    """Blocks that are to replace others under their tag, as a profile has them."""


_Tagging.add_representer(Whole, lambda self, block: self.represent_mapping("!whole", dict(block)))


def written(values: Mapping[str, Any]) -> str:
    """New YAML text in which a :class:`Whole` block has the tag ``!whole``; the innermost blocks stand in a line."""
    writer = YAML(typ="rt")
    writer.Representer, writer.width, writer.default_flow_style = _Tagging, WIDTH, None
    stream = io.StringIO()
    writer.dump(dict(values), stream)
    return stream.getvalue()
