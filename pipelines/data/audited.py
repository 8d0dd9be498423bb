"""What an audit says of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.provenance import printable

Verdict = Literal["verified", "missing", "does not match", "unknown", "recorded"]
"""``recorded``: said by the artifact, and nothing here can check it."""
BAD = ("missing", "does not match")


@dataclass(frozen=True)
class Item:
    """One thing that was looked at."""

    path: str
    verdict: Verdict
    what: str

    def __str__(self) -> str:
        return printable(f"{self.verdict:<15} {self.path}: {self.what}")
