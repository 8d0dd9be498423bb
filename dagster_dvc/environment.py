"""The environment of every command that this package starts."""

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

GRACE, DEFAULT_GRACE = "REEL_GRACE_SECONDS", 6.0
"""The one setting of how long a stage that is asked to stop may save; every supervisor above it waits as long."""


def grace_seconds() -> float:
    """What the variable says, else :data:`DEFAULT_GRACE`.

    Raises:
        SystemExit: it is no number of seconds.
    """
    stated = os.environ.get(GRACE) or str(DEFAULT_GRACE)
    try:
        seconds = float(stated)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise SystemExit(f"{GRACE} is {stated!r}; write seconds, such as {DEFAULT_GRACE:g}.")
    return seconds


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment with this interpreter first on PATH, lines unbuffered."""
    base = {**os.environ, **(env or {})}
    base["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", "")])
    base["PYTHONUNBUFFERED"] = "1"
    base["DVC_REPRO_TIMED"] = "1"  # a stage that notes its own times leaves it to us
    return base
