"""Files that a ``dvc.yaml`` takes values from, whether or not they can be read: an edit may change the graph."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DEFAULT = "params.yaml"
"""What DVC reads beside every ``dvc.yaml`` without being told."""


def values_files(contents: Mapping[str, Any], folder: Path) -> set[Path]:
    """The files named by ``vars`` and ``params`` of a ``dvc.yaml`` in `folder`, and the default ones.

    Names with ``${}`` in them stay as they are: no such file exists, and what they mean is found by what they are
    made from.
    """
    found = {folder / DEFAULT, *_vars(contents, folder), *_params(contents, folder)}
    stages = contents.get("stages")
    for stage in (stages if isinstance(stages, Mapping) else {}).values():
        body = stage.get("do", stage) if isinstance(stage, Mapping) else None
        if isinstance(body, Mapping):
            place = folder / str(body.get("wdir", "."))
            found |= {*_vars(body, place), *_params(body, place)}
    return found


def _vars(block: Mapping[str, Any], folder: Path) -> Iterator[Path]:
    yield from (folder / entry.split(":")[0] for entry in _items(block, "vars") if isinstance(entry, str))


def _params(block: Mapping[str, Any], folder: Path) -> Iterator[Path]:
    for entry in _items(block, "params"):
        yield from (folder / str(file) for file in (entry if isinstance(entry, Mapping) else ()))


def _items(block: Mapping[str, Any], key: str) -> list[Any]:
    found = block.get(key)
    return found if isinstance(found, list) else []
