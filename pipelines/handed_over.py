"""A stage that is handed to an engine: what it would compute, and whose it is."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.arrivals import listing, sources
from pipelines.recording import tracked_inputs
from pipelines.stage import digest, path_flags

NOTES = {"slurm": "slurm/attempt.json", "kubernetes": "kubernetes/pod.json"}
"""Engines, and the file in a stage's work folder that is there while a job of the engine may run."""


def project_mark(root: Path | None = None) -> str:
    """What tells jobs of this project from those of others: a hash of its folder."""
    return hashlib.sha256(str((root or Path.cwd()).resolve()).encode()).hexdigest()[:12]


def key_of(content: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of what a job would compute."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def key(stage: str, words: Sequence[str], outputs: Sequence[Path]) -> str:
    """What the job would compute: its command, parameters and code, and what it reads."""
    snapshot, code = tracked_inputs(stage)
    paths = [Path(value) for flag, value in path_flags(list(words[2:])).items() if flag != "params"]
    read = [path for path in paths if path not in outputs]
    found = sources(stage)
    data = {str(path): digest(path) for path in read if path.exists() and path not in found}
    return key_of(
        {"words": list(words), "recorded": snapshot, "code": code.value, "data": data, "sources": listing(found)}
    )


def newest_state(work: Path) -> str:
    """The name of the newest state of a training that is on disk below a stage's work folder; ``none`` without one."""
    names = sorted(path.name for path in work.glob("*/state-*"))
    return names[-1] if names else "none"


class HandedOver:
    """What is run by an engine for a stage, and speaks of it here."""

    stage: str

    def say(self, line: str) -> None:
        """One line of the stage; a terminal that is gone stops nothing."""
        with contextlib.suppress(OSError, ValueError):
            print(f"{self.stage}: {line}", flush=True)
