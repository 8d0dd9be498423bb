"""``reel lineage PATH --format NAME``: a lineage in the words of a standard, a JSON document a line or as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pipelines.provenance import lineage
from pipelines.standards import croissant, openlineage, statements


def told(path: Path, name: str) -> Iterator[str]:
    """Lines of one of :data:`pipelines.provenance.FORMATS`.

    Raises:
        NoChain: nothing there says where it came from. StageError: it is no project, where one is needed.
    """
    if name == "openlineage":
        yield from (json.dumps(event, sort_keys=True) for event in openlineage.events(path))
        return
    found = lineage(path)
    if name == "croissant":
        yield json.dumps(croissant.describe(found), indent=2)
    else:
        made = statements.statements(found.nodes, found.runs, found.artifact, {})
        yield from (json.dumps(statement, sort_keys=True) for statement in made)
