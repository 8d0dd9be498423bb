"""On which line of a YAML file a value stands."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml


def line_of(file: Path, path: Sequence[str]) -> int:
    """Line (from 1) of the innermost key of `path` that the file has; 1 where it has none, or is no YAML.

    A word of the path is a key of a mapping, or a position in a list; a key may hold dots.
    """
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return 1
    line, words = 1, [part for word in path for part in _parts(word)]
    for word in words:
        found = _below(node, word)
        if found is None:
            break
        line, node = found
    return line


def _parts(word: str) -> Iterable[str]:
    return word.split(".")


def _below(node: yaml.Node | None, word: str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == word:
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and word.isdigit() and int(word) < len(node.value):
        found = node.value[int(word)]
        return found.start_mark.line + 1, found
    return None
