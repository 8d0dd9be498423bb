"""When two values of a parameter are the same for DVC: Python's ``==`` on what its YAML reader gives.

So ``1``, ``1.0`` and ``true`` are one value. NaN equals nothing where the parameter itself is NaN, and itself within a
list or mapping, because the reader gives one object for every NaN and containers compare objects first.
"""

import json
import math
from collections.abc import Mapping
from typing import Any


def as_json(values: Any) -> Any:
    """Values as JSON hands them on: keys of mappings as text, dates as text."""
    return json.loads(json.dumps(values, default=str))


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
    """The value of a parameter so that equal ones give equal JSON; a NaN says on which `side` it stands."""
    return f"NaN, {side}" if is_nan(value) else _canonical(as_json(value))


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_canonical(inner) for inner in value]
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return value
