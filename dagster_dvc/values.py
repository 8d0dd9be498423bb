"""When two values of a parameter are the same for DVC: Python's ``==`` on what its readers give.

So ``1``, ``1.0`` and ``true`` are one value, and one key of a mapping; ``1`` and ``"1"`` are two. NaN equals nothing
where the parameter itself is NaN, and itself within a list or mapping of a YAML file, because that reader gives one
object for every NaN and containers compare objects first. The readers of JSON, TOML and Python give others.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

NOT_TEXT = re.compile(r"'.*|-?\d+(\.\d+)?(e[-+]?\d+)?|null|nan|-?infinity", re.DOTALL)
"""Keys that get quotes where they are text: they look like what another key becomes."""
TUPLE, FRESH_NAN = "a tuple", "NaN of its own"
"""What stands for values that equal nothing in dvc.lock, as DVC compares them."""


def as_key(key: Any) -> str:
    """A key of a mapping as text: equal keys give equal texts, and no others do; text may get quotes for it."""
    if isinstance(key, str):
        return f"'{key}'" if NOT_TEXT.fullmatch(key) else key
    if isinstance(key, bool) or (isinstance(key, float) and key.is_integer()):
        key = int(key)
    return json.dumps(key).lower() if key is None or isinstance(key, int | float) else f"'{type(key).__name__} {key}"


def as_json(values: Any, key: Callable[[Any], str] = as_key) -> Any:
    """Values as JSON hands them on: keys of mappings as text, dates as text, sequences as lists."""
    if isinstance(values, Mapping):
        return {key(name): as_json(value, key) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [as_json(value, key) for value in values]
    return values if values is None or isinstance(values, str | int | float) else str(values)


def as_read(values: Any, file: str) -> Any:
    """Parameters of a file, by key, as JSON; what cannot equal anything in dvc.lock becomes a word that does not."""
    if file.endswith((".yaml", ".yml")):
        return as_json(values)
    return {as_key(key): as_json(_unlike(value)) for key, value in values.items()}


def _unlike(value: Any, is_inside: bool = False) -> Any:
    """DVC takes a tuple for a list where it is the parameter itself, and not within one."""
    if isinstance(value, Mapping):
        return {key: _unlike(inner, True) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        parts = [_unlike(inner, True) for inner in value]
        return [TUPLE, *parts] if is_inside and isinstance(value, tuple) else parts
    return FRESH_NAN if is_inside and is_nan(value) else value


def is_nan(value: Any) -> bool:
    """Whether a value is the number that is none."""
    return isinstance(value, float) and math.isnan(value)


def equal(one: Any, other: Any) -> bool:
    """Whether two values inside a parameter are the same."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one is other or one == other or (is_nan(one) and is_nan(other))


def canonical(value: Any, side: str) -> Any:
    """The value of a parameter so that equal ones give equal JSON; a NaN says on which `side` it stands.

    The value is one of `as_json` or `as_read`.
    """
    return f"NaN, {side}" if is_nan(value) else _canonical(value)


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_canonical(inner) for inner in value]
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return value
