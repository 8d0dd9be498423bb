"""The other processes of a stage: how long one may be silent, and what is said when it does not come back.

A machine that is cut off sends no farewell: a collective waits for it. What bounds that wait is a fact of the machine.
"""

from __future__ import annotations

import os
import re
import socket
from datetime import timedelta

from pipelines.machine import stated_seconds

SECONDS, DEFAULT_SECONDS = "REEL_PEER_SECONDS", 600.0
LOST_CODE = 76
"""Exit code of a process that lost the others: nothing is wrong with it."""
ERRORS = ("DistBackendError", "DistNetworkError", "DistStoreError")
"""torch.distributed's own errors; gloo's come as plain RuntimeErrors that name it."""

SOURCE = re.compile(r"^\[[^\]]*\]\s*")
"""Where in gloo's own code an error was raised."""

_told: list[str] = []


def patience() -> timedelta:
    """How long a process waits for another in a collective.

    Raises:
        SystemExit: the variable is no number of seconds.
    """
    return timedelta(seconds=stated_seconds(SECONDS, DEFAULT_SECONDS, lambda seconds: 0 < seconds < 1e9))


def lost(error: BaseException) -> str | None:
    """One line where an error is that other processes do not answer any more; None for every other error."""
    said = str(error)
    is_ours = type(error).__name__ in ERRORS or (isinstance(error, RuntimeError) and "gloo" in said)
    if not is_ours or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    first = next((line.strip() for line in said.splitlines() if line.strip()), type(error).__name__)
    first = SOURCE.sub("", first).partition(". ")[0]  # not where in gloo, and not its good wishes
    here = f"process {os.environ.get('RANK', '0')} of {os.environ['WORLD_SIZE']} on {host()}"
    line = (
        f"{here} has lost the others ({first[:160]}); it waits at most {patience().total_seconds():g} s for one "
        f"({SECONDS}). What was saved is kept: the same command goes on from there."
    )
    _told[:] = [line]
    return line


def host() -> str:
    """This machine's name, as the cluster knows it where it is a node of one."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def told_of() -> str:
    """What :func:`lost` has said in this process; empty where it has not."""
    return _told[0] if _told else ""
