"""Facts of this machine, from one place: cores, threads, GPUs, the time to save. No result's identity has them.

A stage's command in ``dvc.yaml`` says nothing of them, so the same lineage is fresh on a laptop and on a cluster.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

GRACE, JOBS, THREADS = "REEL_GRACE_SECONDS", "REEL_JOBS", "OMP_NUM_THREADS"
DEFAULT_GRACE, DEFAULT_JOBS = 6.0, 2
DRIVERS = (("libcuda.so.1", "cuInit", "cuDeviceGetCount"), ("libamdhip64.so", "hipInit", "hipGetDeviceCount"))
"""The driver's own libraries and how they are asked: they are there in containers and WSL2 too, and heed
``CUDA_VISIBLE_DEVICES``."""
CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
KINDS = ("outs", "metrics", "plots")


def grace_seconds() -> float:
    """Time between asking a stage to stop (it saves) and ending it.

    Raises:
        SystemExit: the variable is no number of seconds.
    """
    return stated_seconds(GRACE, DEFAULT_GRACE, lambda seconds: 0 <= seconds < math.inf)


def stated_seconds(variable: str, default: float, is_allowed: Callable[[float], bool]) -> float:
    """Seconds that an environment variable states, or the default.

    Raises:
        SystemExit: it is no number that is allowed; NaN never is.
    """
    stated = os.environ.get(variable) or str(default)
    try:
        seconds = float(stated)
    except ValueError:
        seconds = math.nan
    if not is_allowed(seconds):
        raise SystemExit(f"{variable} is {stated!r}; write seconds, such as {default:g}.")
    return seconds


def cores(cgroups: Path = CGROUPS, own: Path = OWN_GROUPS) -> int:
    """Processors that this process may use at once: those it may run on, and no more than its container is given."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = _quota(cgroups, own)
    return max(1, min(allowed, int(given) if given else allowed))


def workers() -> int:
    """Threads that one process of a stage may have at work besides torch's: what the user or the launcher says
    (:data:`THREADS`), else all cores."""
    stated = os.environ.get(THREADS, "").split(",")[0].strip()
    return int(stated) if stated.isdecimal() and int(stated) else cores()


def _quota(cgroups: Path, own: Path) -> float | None:
    """Processors by the strictest limit of this process's groups (cgroup version 2, or 1); None where there is none.

    A container sees its own group as the root; a service or a user's slice of systemd stands below it.
    """
    groups = {"", "cpu"}
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text(encoding="utf-8").splitlines():
            _, kinds, path = line.split(":", 2)
            if not kinds or "cpu" in kinds.split(","):
                below = Path(kinds and "cpu") / path.lstrip("/")
                groups |= {str(group) for group in (below, *below.parents)}
    found = [quota for group in groups if (quota := _limit(cgroups / group)) is not None]
    return min(found, default=None)


def _limit(group: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota = int((group / "cpu.cfs_quota_us").read_text())
        return quota / int((group / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    return None


def threads(stage: str, entries: Mapping[str, Mapping[str, Any]], processes: int = 1) -> int:
    """Processor threads of each of a stage's processes, where the user has not said so (:data:`THREADS`).

    All cores for a stage beside which no other can run, else its share when ``REEL_JOBS`` stages run side by side. By
    the graph and not by the moment: the same machine gives the same sums.
    """
    jobs = os.environ.get(JOBS, "")
    beside = 1 if is_alone(stage, entries) else int(jobs) if jobs.isdecimal() and int(jobs) else DEFAULT_JOBS
    return max(1, cores() // beside // max(1, processes))


def is_alone(stage: str, entries: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether all other stages come before this one or after it; those that run on request only do not count."""
    if stage not in entries:
        return False
    reads = {name: _paths(entry.get("deps")) for name, entry in entries.items()}
    makes = {name: [out for kind in KINDS for out in _paths(entry.get(kind))] for name, entry in entries.items()}
    after = {
        name: {other for other, deps in reads.items() if any(_overlap(dep, out) for dep in deps for out in makes[name])}
        for name in entries
    }
    before = {name: {other for other, ones in after.items() if name in ones} for name in entries}
    related = {stage, *_reached(stage, after), *_reached(stage, before)}
    launched = {name for name, entry in entries.items() if "pipelines.launch" in str(entry.get("cmd", ""))}
    return {name for name in launched if not _is_optional(entries[name])} <= related


def _is_optional(entry: Mapping[str, Any]) -> bool:
    return bool(((entry.get("meta") or {}).get("dagster") or {}).get("optional"))


def _paths(values: Any) -> list[PurePosixPath]:
    """Paths in a list of dvc.yaml, whose items may be mappings with options."""
    return [PurePosixPath(one if isinstance(one, str) else next(iter(one))) for one in values or () if one]


def _overlap(one: PurePosixPath, other: PurePosixPath) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _reached(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    found, todo = set[str](), [start]
    while todo:
        new = edges[todo.pop()] - found
        found |= new
        todo += new
    return found


def gpus() -> int:
    """GPUs that a driver of this machine offers to this process."""
    for library, start, count in DRIVERS:
        with contextlib.suppress(OSError, AttributeError):
            driver, found = ctypes.CDLL(library), ctypes.c_int(0)
            if getattr(driver, start)(0) == 0 and getattr(driver, count)(ctypes.byref(found)) == 0 and found.value:
                return found.value
    return 0


def torch_uses_gpus() -> bool:
    """Whether the installed torch is built for GPUs; read from its version file, as loading it takes seconds."""
    spec = importlib.util.find_spec("torch")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        with contextlib.suppress(OSError):
            text = (Path(folder) / "version.py").read_text(encoding="utf-8")
            return bool(re.search(r"^(cuda|hip)\b[^=]*= *['\"]", text, re.MULTILINE))
    return False


def unused_gpu() -> str | None:
    """A line where this process was given GPUs that its torch cannot use, which computes on the CPU then, unsaid.

    As with a driver older than torch asks for. None where no torch is loaded: the stage computes without.
    """
    torch, given = sys.modules.get("torch"), os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch is None or not given or os.environ.get("RANK", "0") != "0" or torch.cuda.is_available():
        return None
    return (
        f"runs on the CPU: GPU {given} is given to it, and the installed torch cannot use it; "
        "`python -c 'import torch; torch.zeros(1).cuda()'` says why"
    )


if __name__ == "__main__":  # for the platform, which imports nothing of the pipelines
    print(cores() if sys.argv[1:] == ["cores"] else gpus() if torch_uses_gpus() else 0)
