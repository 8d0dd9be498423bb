"""Where a result came from: the artifacts that were read, the command, the code, the versions, the machine.

Nothing here names a host, a user or a place outside the project.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipelines.stage import digest


@dataclass(frozen=True)
class ReadArtifact:
    """An artifact that a run read: where it stood and what it was."""

    path: str
    digest: str


def inside(path: Path) -> str:
    """The path inside the project; only its name where it is elsewhere: a checkpoint travels, a machine does not."""
    with contextlib.suppress(ValueError):
        return path.resolve().relative_to(Path.cwd()).as_posix()
    return path.name


def source(path: Path) -> ReadArtifact:
    """Where one artifact stood and what it was."""
    return ReadArtifact(inside(path), digest(path))


def command(words: Sequence[str]) -> list[str]:
    """A command line without places of this machine."""
    return [inside(Path(word)) if Path(word).is_absolute() else word for word in words]


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def commit() -> dict[str, Any]:
    """Commit and whether tracked files differ from it; empty where git does not hold this code.

    An archive unpacked inside another repository must not claim that repository's commit.
    """
    found = _git("rev-parse", "HEAD")
    if found is None or _git("ls-files", "--error-unmatch", "dvc.yaml") is None:
        return {}
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": found, "dirty": bool(status)}


def branch() -> str | None:
    """The branch that is checked out; None outside git."""
    return _git("rev-parse", "--abbrev-ref", "HEAD")


def environment() -> dict[str, str]:
    """Versions of what decides the numbers."""
    found = {"python": platform.python_version()}
    for name in ("torch", "accelerate", "diffusers", "transformers", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: str | None = None) -> dict[str, Any]:
    """What this process and its siblings run on; ``device``: "cpu" or "cuda", None: as it turns out.

    Torch is not loaded for it where the stage has not.
    """
    torch = sys.modules.get("torch")
    device = device or ("cuda" if _uses_gpu() else "cpu")
    kind = platform.processor() or platform.machine()
    return {
        "device": device,
        "kind": torch.cuda.get_device_name() if torch is not None and device == "cuda" else kind,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        **({"threads": torch.get_num_threads()} if torch is not None else {}),
        "cores": os.cpu_count(),
        **(_cuda(torch) if torch is not None and device == "cuda" else {}),
    }


def _cuda(torch: Any) -> dict[str, str]:
    """Versions of the CUDA that torch was built with, and of the driver; what cannot be said is left out."""
    found = {"cuda": torch.version.cuda or "none"}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        found["driver"] = ", ".join(dict.fromkeys(done.stdout.split()))
    return found


def _uses_gpu() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()


def peak_gib() -> float:
    """Peak memory: of the GPU where one is used, else resident memory of this process."""
    torch = sys.modules.get("torch")
    if torch is not None and _uses_gpu():
        return torch.cuda.max_memory_allocated() / 2**30
    scale = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
