"""JSON objects that stages have written: read with the file's name in every error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.stage import StageError

REMEDY = "`dvc checkout` restores what a stage has written"


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """The object in a file.

    Raises:
        StageError: the file cannot be read, is no JSON, holds no object, or lacks one of ``keys``.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StageError(f"{path}: damaged, no JSON ({error}); {REMEDY}.") from None
    if not isinstance(content, dict):
        raise StageError(f"{path}: damaged, holds no object; {REMEDY}.")
    lacking = [key for key in keys if key not in content]
    if lacking:
        raise StageError(f"{path}: damaged, lacks {', '.join(lacking)}; {REMEDY}.")
    return content
