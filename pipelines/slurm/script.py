"""The batch script of one stage, as text: what a person may read, and submit by hand with ``sbatch``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from pipelines.slurm.target import Target

WARNING = "USR1"
"""What Slurm sends the batch script ``warning_seconds`` before its time is over, or up to a minute earlier: perhaps
before anything can hear it. So it is ignored until then, and the job looks at the clock itself."""


def job_name(stage: str, token: str) -> str:
    """The name under which a submission is found, even by one who did not live to hear its number."""
    return f"reel-{stage}-{token}"


def directives(target: Target, name: str, comment: str, log: Path) -> list[str]:
    """The words of ``#SBATCH``: one a line."""
    slurm, asked = target.slurm, target.resources
    stated: dict[str, object] = {
        "job-name": name,
        "comment": comment,
        "nodes": asked.nodes,
        "ntasks-per-node": asked.processes,
        "cpus-per-task": asked.cpus,
        "gpus-per-node": asked.gpus or None,
        "mem": asked.memory,
        "time": asked.time,
        "time-min": asked.time_min,
        "partition": asked.partition,
        "constraint": asked.constraint,
        "account": slurm.account,
        "qos": slurm.qos,
        "signal": f"B:{WARNING}@{slurm.warning_seconds}",
        "open-mode": "append",
        "output": log,
        "chdir": Path.cwd(),
    }
    words = [f"--{key}={_quoted(str(value))}" for key, value in stated.items() if value is not None]
    return [*words, "--requeue", *asked.options]


def _quoted(value: str) -> str:
    """As sbatch reads it: quotes around what has spaces, as it knows no other escape."""
    return f'"{value}"' if any(letter.isspace() for letter in value) else value


def text(target: Target, name: str, comment: str, log: Path, command: Sequence[str]) -> str:
    """The whole script; ``command`` is what runs in the batch step."""
    lines = ["#!/bin/bash", *(f"#SBATCH {word}" for word in directives(target, name, comment, log))]
    lines.append(f"trap '' {WARNING}")
    return "\n".join([*lines, *target.slurm.setup, f"exec {shlex.join(command)}"]) + "\n"
