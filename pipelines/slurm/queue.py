"""What Slurm says of jobs: its commands asked, its answers read. A queue that does not answer is not an empty one."""

from __future__ import annotations

import getpass
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.stage import StageError

PATIENCE_SECONDS = 60.0
COLUMNS = "%i|%T|%r|%N|%V|%j|%k"
"""Of squeue: number, state, reason, nodes, when submitted, name, comment (last: it may hold anything)."""
UNKNOWN_JOB = "Invalid job id specified"
WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)
WORKING = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})
ACCOUNTED = (
    "JobIDRaw",
    "State",
    "ExitCode",
    "ElapsedRaw",
    "TotalCPU",
    "MaxRSS",
    "NNodes",
    "NCPUS",
    "AllocTRES",
    "NodeList",
)
"""Columns of sacct."""


@dataclass(frozen=True)
class Job:
    """One job as the queue shows it."""

    number: str
    state: str
    reason: str = ""
    nodes: str = ""
    submitted: str = ""
    name: str = ""
    comment: str = ""

    @property
    def is_live(self) -> bool:
        """Whether it runs or will run; what is not in the queue's words is taken to."""
        return self.state in WAITING | WORKING

    def told(self) -> str:
        """Number, state and why, in words."""
        where = f" on {self.nodes}" if self.nodes else ""
        why = f" ({self.reason})" if self.reason not in ("", "None") and not self.nodes else ""
        return f"job {self.number} is {self.state.lower()}{where}{why}"


class Unanswered(StageError):
    """Slurm did not answer; nothing is known, so nothing may be done on the strength of it."""


def ask(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands; what it says is for the caller to judge.

    Raises:
        Unanswered: it is not installed here, or does not end.
    """
    try:
        return subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise Unanswered(
            f"{words[0]} is not on this machine: start stages where Slurm's commands are, or say `target: local`."
        ) from None
    except subprocess.TimeoutExpired:
        raise Unanswered(
            f"{words[0]} has not answered for {PATIENCE_SECONDS:g} s; try again when Slurm is up."
        ) from None


def answered(words: Sequence[str]) -> str:
    """What the command prints.

    Raises:
        Unanswered: it failed, in its own words.
    """
    done = ask(words)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Unanswered(f"{words[0]}: {said[-1] if said else f'exit status {done.returncode}'}")
    return done.stdout


def read_queue(text: str) -> list[Job]:
    """Lines of squeue with :data:`COLUMNS`."""
    rows = [line.split("|", 6) for line in text.splitlines() if line.count("|") >= 6]
    return [Job(*(cell.strip() for cell in row)) for row in rows]


def mine() -> list[Job]:
    """All live jobs of this user.

    Raises:
        Unanswered: the queue does not answer.
    """
    return read_queue(answered(["squeue", "-h", "-u", getpass.getuser(), "-t", "all", "-o", COLUMNS]))


def read_facts(text: str) -> dict[str, str]:
    """``scontrol show job -o``: one line of ``Key=value``; values may hold spaces and more signs of equality."""
    parts = re.split(r"(?:^|\s)(\w[\w/:]*?)=", text.strip())
    return {key: value.strip() for key, value in zip(parts[1::2], parts[2::2], strict=True)}


def show(number: str) -> dict[str, str] | None:
    """What the controller still knows of a job (it forgets one some minutes after its end); None where nothing.

    Raises:
        Unanswered: it does not answer.
    """
    done = ask(["scontrol", "show", "job", "-o", number])
    if done.returncode == 0:
        return read_facts(done.stdout.splitlines()[0]) if done.stdout.strip() else None
    if UNKNOWN_JOB in done.stderr + done.stdout:
        return None
    raise Unanswered(f"scontrol: {(done.stderr or done.stdout).strip().splitlines()[-1]}")


def job(number: str) -> Job | None:
    """The job as it is now; None where the controller has forgotten it."""
    facts = show(number)
    if facts is None:
        return None
    cells = [facts.get(key, "") for key in ("JobState", "Reason", "NodeList", "SubmitTime", "JobName", "Comment")]
    cells[2] = "" if cells[2] == "(null)" else cells[2]
    return Job(number, *cells)


def read_accounting(text: str) -> list[dict[str, str]]:
    """Rows of ``sacct -P -n`` with :data:`ACCOUNTED`."""
    rows = [line.split("|") for line in text.splitlines()]
    return [dict(zip(ACCOUNTED, row, strict=True)) for row in rows if len(row) == len(ACCOUNTED)]


def by_name(name: str) -> str | None:
    """The number of a job that the accounting knows under this name; None without one, or without accounting."""
    try:
        done = ask(["sacct", "-X", "-n", "-P", "--name", name, "-S", "now-7days", "-o", "JobIDRaw"])
    except Unanswered:
        return None
    found = done.stdout.split() if done.returncode == 0 else []
    return found[0] if found else None


def gib(text: str) -> float | None:
    """Memory as Slurm writes it (``1234K``) in GiB."""
    match = re.fullmatch(r"([\d.]+)([KMGT]?)", text)
    return float(match[1]) * 1024.0 ** ("KMGT".find(match[2] or "K") - 2) if match else None


def summary(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What a job took, by its rows of accounting: the job's own, and the most memory of any step."""
    own = next((row for row in rows if "." not in row["JobIDRaw"]), None)
    if own is None:
        return {}
    peaks = [peak for row in rows if (peak := gib(row["MaxRSS"])) is not None]
    found: dict[str, Any] = {
        "state": own["State"].split()[0],
        "exit": own["ExitCode"],
        "seconds": int(own["ElapsedRaw"] or 0),
        "cpu_time": own["TotalCPU"],
        "nodes": own["NodeList"],
        "given": own["AllocTRES"],
        "from": "sacct",
    }
    return found | ({"peak_gib_of_a_process": round(max(peaks), 3)} if peaks else {})


def accounting(number: str) -> dict[str, Any]:
    """What the job took: by sacct, else (no slurmdbd) what the controller knows; empty where both know nothing."""
    try:
        done = ask(["sacct", "-n", "-P", "-j", number, "-o", ",".join(ACCOUNTED)])
        found = summary(read_accounting(done.stdout)) if done.returncode == 0 else {}
        facts = {} if found else show(number) or {}
    except Unanswered:
        return {}
    if facts:
        named = {"state": "JobState", "exit": "ExitCode", "run_time": "RunTime", "nodes": "NodeList", "given": "TRES"}
        named |= {"restarts": "Restarts", "partition": "Partition", "submitted": "SubmitTime", "started": "StartTime"}
        found = {name: facts[key] for name, key in named.items() if key in facts} | {"from": "scontrol"}
    return {"job": number, **found} if found else {}
