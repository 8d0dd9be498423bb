"""The text of dvc.lock as values: YAML 1.2, in which ``1e-05`` is a number and ``on`` is a word, by the fast loader.

A lock file with conflict markers or broken YAML is one error with file and line.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from dagster_dvc.problem import ProjectError

SCHEMA = "2.0"


class Yaml12(yaml.CSafeLoader):
    """YAML 1.2 core scalars: what DVC writes."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 (PyYAML's own attribute)


for tag, pattern, first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
):
    Yaml12.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), list(first))


def stages(text: bytes, shown: Path) -> dict[str, Any]:
    """The entries of one lock file by the name of their stage; none of no text, which is that of no file.

    Raises:
        ProjectError: the text is no lock file for DVC either; `shown` is the file that the error names.
    """
    if not text:
        return {}
    try:
        data = yaml.load(text.decode(), Loader=Yaml12)
        why, line = _refusal(data, text.decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark, data = getattr(error, "problem_mark", None), {}
        why, line = getattr(error, "problem", None) or "not a DVC lock file", mark.line + 1 if mark else 1
    if why:
        raise ProjectError(_complaint(shown, text.decode(errors="replace"), why, line))
    return data.get("stages") or {}


def _refusal(data: Any, text: str) -> tuple[str, int]:
    """Why DVC would not take it, and on which line; as much of its schema as people break."""
    if not isinstance(data, dict):
        return ("empty" if data is None else "not a DVC lock file"), 1
    if data.get("schema") != SCHEMA:
        return f"no `schema: '{SCHEMA}'`, which every version since DVC 2 writes", 1
    stages = data.get("stages") or {}
    for name, entry in stages.items() if isinstance(stages, dict) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("cmd"), str | list):
            return f"stage '{name}' has no cmd", _line(text, name)
        paths = [item for kind in ("deps", "outs") for item in entry.get(kind) or []]
        if not all(isinstance(item, dict) and isinstance(item.get("path"), str) for item in paths):
            return f"stage '{name}' has a dependency or output without a path", _line(text, name)
    return ("", 0) if isinstance(stages, dict) else ("its stages are no mapping", _line(text, "stages"))


def _line(text: str, key: object) -> int:
    found = re.search(rf"^\s*{re.escape(str(key))}:", text, re.MULTILINE)
    return text[: found.end()].count("\n") + 1 if found else 1


def _complaint(path: Path, text: str, why: str, line: int) -> str:
    conflict = re.search(r"^[<=>]{7}( |$)", text, re.MULTILINE)
    if conflict:
        line = text[: conflict.start()].count("\n") + 1
        return f"{path}:{line}: a merge conflict; keep one side (or delete the file) and run `dvc repro`"
    return f"{path}:{line}: {why}; restore it from git, or delete it and run `dvc repro`"
