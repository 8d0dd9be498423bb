"""How a stage's ``cmd`` in dvc.yaml is read: launcher, its options, module, function, flags with values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

GRAPH = Path("dvc.yaml")


def launch_options(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The launcher's own options, which stand first (``--alone``, ``--threads=2``), and the words after them."""
    first = next((at for at, word in enumerate(words) if not word.startswith("--")), len(words))
    return list(words[:first]), list(words[first:])


def stage_words(cmd: str) -> list[str]:
    """Of a stage's ``cmd`` what stands behind the launcher and its options: module, function, flags with values."""
    words = cmd.split()
    return launch_options(words[words.index("pipelines.launch") + 1 :])[1]


def stage_entries(path: Path = GRAPH) -> dict[str, dict[str, Any]]:
    """The stages of a graph as they stand in the file; empty where there is none."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = yaml.load(path.read_text(encoding="utf-8"), loader) if path.is_file() else None
    return (content or {}).get("stages") or {}


def command_text(entry: Mapping[str, Any]) -> str:
    """A stage's ``cmd`` as one text; DVC takes a list of commands too."""
    cmd = entry.get("cmd", "")
    return " && ".join(map(str, cmd)) if isinstance(cmd, list) else str(cmd)


def stage_function(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    """Module and function that a stage's entry launches; None where it launches none of ours."""
    cmd = command_text(entry)
    if "pipelines.launch" not in cmd.split():
        return None
    module, function, *_ = [*stage_words(cmd), "", ""]
    return module, function


def stage_commands(path: Path = GRAPH) -> dict[str, tuple[str, str, str]]:
    """Of every stage in dvc.yaml: (module, function, params section), read from its literal ``cmd``."""
    commands = {}
    for name, entry in stage_entries(path).items():
        launched, words = stage_function(entry), command_text(entry).split()
        if launched and "--params" in words[:-1]:
            commands[name] = (*launched, words[words.index("--params") + 1])
    return commands
