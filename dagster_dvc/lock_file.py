"""The text of dvc.lock as values: YAML 1.2, in which ``1e-05`` is a number and ``on`` is a word, by the fast loader.

A lock file with conflict markers or broken YAML is one error with file and line.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from dagster_dvc.problem import ProjectError


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
    """The entries of one lock file by the name of their stage.

    Raises:
        ProjectError: the text is no lock file; `shown` is the file that the error names.
    """
    try:
        data = yaml.load(text.decode(), Loader=Yaml12) or {}
        return data.get("stages") or {}
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise ProjectError(_complaint(shown, text.decode(errors="replace"), error)) from None


def _complaint(path: Path, text: str, error: Exception) -> str:
    conflict = re.search(r"^[<=>]{7}( |$)", text, re.MULTILINE)
    if conflict:
        line = text[: conflict.start()].count("\n") + 1
        return f"{path}:{line}: a merge conflict; keep one side (or delete the file) and run `dvc repro`"
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or "not a DVC lock file"
    return f"{path}:{mark.line + 1 if mark else 1}: {reason}; restore it from git, or delete it and run `dvc repro`"
