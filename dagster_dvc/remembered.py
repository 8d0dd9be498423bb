"""What is remembered from one command to the next only saves time: where it cannot be kept, nothing ends for it."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any


def keep(file: Path, content: Any) -> None:
    """Write JSON, whole or not at all; not where the disk refuses it (read-only, full, another user's)."""
    partial = file.with_suffix(f".{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content), encoding="utf-8")
        partial.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
