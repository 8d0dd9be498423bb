"""``python -m pipelines.code``: write ``code.json``. With ``--now``: only print what it would hold, and what changed.

``--now`` prints, as JSON, ``values`` (by file, what the file would hold under each stage's name) and ``why`` (by file
and stage, the definitions that differ from those of the run that dvc.lock records), for ``reel status`` and Dagster.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from pipelines.code import stages
from pipelines.code.definitions import CodeError
from pipelines.document import load

MOST_VERSIONS = 200
"""Earlier versions of ``code.json`` in DVC's cache that are looked through for what a stage ran with."""


def now() -> dict[str, Any]:
    """What ``--now`` prints.

    Raises:
        CodeError: the code cannot be understood.
    """
    found = stages.identities()
    recorded = {name: value for name, value in _recorded().items() if name in found and value != found[name].value}
    why = {}
    for held in _versions() if recorded else ():
        for name in [name for name, value in recorded.items() if held.get(name) == value]:
            why[name] = stages.changed(stages.parts_of(held, name), found[name].parts)
            del recorded[name]
        if not recorded:
            break
    return {
        "values": {stages.CODE_FILE.name: {name: one.value for name, one in found.items()}},
        "why": {stages.CODE_FILE.name: why},
    }


def _recorded() -> dict[str, str]:
    """Of every stage the identity that dvc.lock records."""
    lock = Path("dvc.lock")
    content = load(lock.read_text(encoding="utf-8")) if lock.is_file() else None
    entries = (content or {}).get("stages") or {}
    values = {name: (entry.get("params") or {}).get(stages.CODE_FILE.name, {}) for name, entry in entries.items()}
    return {name: value[name] for name, value in values.items() if name in value}


def _versions() -> Iterator[dict[str, Any]]:
    """What ``code.json`` holds, and held before as far as DVC's cache remembers, the newest first."""
    from pipelines.recording import earlier_versions

    yield stages.read()
    for files in earlier_versions(stages.CODE_FILE, MOST_VERSIONS):
        yield from (stages.read(path) for path in files.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words == ["--now"]:
            print(json.dumps(now()))
        elif words:
            print("code: expected no words, or --now.", file=sys.stderr)
            return 2
        else:
            stages.write(stages.identities())
        return 0
    except (CodeError, YAMLError) as error:
        print(f"code: {error}", file=sys.stderr)
    from pipelines.recording import restore_outputs

    restore_outputs("code")
    return 2


if __name__ == "__main__":
    sys.exit(main())
