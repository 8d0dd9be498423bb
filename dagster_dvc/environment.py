"""The environment of every command that this package starts."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment with this interpreter first on PATH, lines unbuffered, one thread unless told otherwise."""
    base = {**os.environ, **(env or {})}
    base["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", "")])
    base["PYTHONUNBUFFERED"] = "1"
    base["DVC_REPRO_TIMED"] = "1"  # a stage that notes its own times leaves it to us
    base.setdefault("OMP_NUM_THREADS", "1")
    return base
