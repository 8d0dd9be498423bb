"""What `reel run` prints while stages run side by side."""

import threading

from dagster_dvc.project import DvcProject
from dagster_dvc.repro import NOISE, Result
from dagster_project import tables


class Printer:
    """Lines of several stages, each with its stage in front, never mixed within a line."""

    def __init__(self, project: DvcProject) -> None:
        self._width = max(map(len, project.stages), default=0)
        self._lock = threading.Lock()

    def line(self, stage: str, line: str) -> None:
        """One line of a stage's output; what DVC says to itself is left out."""
        own = line.removeprefix(f"{stage}: ")
        if not NOISE.match(line):
            self._print(stage, own)

    def ended(self, result: Result) -> None:
        """How a stage ended."""
        took = f" in {tables.duration(result.seconds)}" if result.outcome != "unchanged" else ""
        self._print(result.stage, f"{tables.WORDS[result.outcome]}{took}")

    def _print(self, stage: str, text: str) -> None:
        with self._lock:
            print(f"{stage.ljust(self._width)} | {text}", flush=True)
