"""What was handed to Slurm, noted before it is: no death between two lines submits a stage twice.

The note of an attempt is written whole before ``sbatch`` is called, with a name that only this attempt has. Slurm keeps
the name, so a launcher that died before it heard the job's number leaves enough to find it.
"""

from __future__ import annotations

import json
import secrets
import socket
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.handed_over import project_mark
from pipelines.slurm.script import job_name
from pipelines.stage import StageError, write_json

FOLDER, NOTE = "slurm", "attempt.json"
ENDED = "end.json"
PREFIX = "reel-"


@dataclass(frozen=True)
class Attempt:
    """One submission of a stage: what it would compute (``key``), and its job once Slurm has said the number."""

    stage: str
    token: str
    key: str
    host: str
    at: str
    job: str | None = None

    @property
    def name(self) -> str:
        """The job's name."""
        return job_name(self.stage, self.token)


def folder(stage: str, work: Path = Path(".work")) -> Path:
    """Scripts, logs and notes of a stage's jobs; on the disk that all nodes see."""
    return (work / stage / FOLDER).absolute()


def new(stage: str, key: str) -> Attempt:
    """An attempt that nobody has made yet."""
    at = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return Attempt(stage, secrets.token_hex(6), key, socket.gethostname(), at)


def noted(stage: str, work: Path = Path(".work")) -> Attempt | None:
    """The attempt whose end nobody has taken in; None where there is none.

    Raises:
        StageError: there is a note, and it cannot be read: what runs is not known.
    """
    file = folder(stage, work) / NOTE
    try:
        return Attempt(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise StageError(
            f"{file}: cannot be read ({error}), so whether a job runs is not known. Look at `reel jobs`, end what is "
            "of this stage with scancel, and remove the file."
        ) from None


def note(attempt: Attempt) -> None:
    """Write the note, whole or not at all."""
    write_json(folder(attempt.stage) / NOTE, asdict(attempt))


def with_job(attempt: Attempt, number: str) -> Attempt:
    """The attempt with its job's number, noted."""
    known = replace(attempt, job=number)
    note(known)
    return known


def forget(stage: str) -> None:
    """Its end has been taken in."""
    (folder(stage) / NOTE).unlink(missing_ok=True)


def ended_file(stage: str, number: str) -> Path:
    """Where the job says, as its last deed, how it ended."""
    return folder(stage) / f"{number}.{ENDED}"


def ended(stage: str, number: str) -> dict[str, Any] | None:
    """What the job said at its end; None while it has not."""
    try:
        return json.loads(ended_file(stage, number).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def comment(stage: str, key: str) -> str:
    """A job's comment: it is of this project, of this stage, and would compute this."""
    return f"reel:{project_mark()}:{stage}:{key}"


def read_comment(text: str) -> tuple[str, str, str] | None:
    """(project, stage, key) of a job's comment; None for one of somebody else's making."""
    parts = text.split(":")
    return (parts[1], parts[2], parts[3]) if len(parts) == 4 and parts[0] == "reel" else None
