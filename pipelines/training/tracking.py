"""Training rows: JSONL always, a table at the end, wandb when its block is there."""

from __future__ import annotations

import contextlib
import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.params import Wandb
from pipelines.stage import say


def is_number(value: Any) -> bool:
    """Whether a value is a scalar of a curve: a finite number. Text never is, nor is a truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


class Rows:
    """``rows.jsonl``: one row per logged step. A resumed run keeps the first ``kept`` rows, which its state counted."""

    def __init__(self, path: Path, kept: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = read_rows(path)[:kept] if path.exists() else []
        write_rows(rows, path)
        self.count = len(rows)

    def write(self, row: Mapping[str, float]) -> None:
        """Append one row; what is no finite number is left out: JSON has no word for it, and a curve no place."""
        finite = {name: value for name, value in row.items() if is_number(value)}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(finite) + "\n")
        self.count += 1


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All complete rows; a last line cut off by a kill is dropped."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


MACHINE = ("seconds", "throughput/", "memory/", "data/")
"""Names, or beginnings of names, of columns that differ between two identical runs."""


def without_machine(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without what the machine decides."""
    return {name: value for name, value in row.items() if not name.startswith(MACHINE)}


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The rows as JSON lines, whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The rows as CSV for ``dvc plots``: a column per name, empty where a row has no value."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


class WandbRun:
    """The same rows in wandb; a resumed run continues under the same id. Offline needs no account and no network.

    Rows from before the resume that wandb has not are sent again first. Offline these are all: every start writes a
    folder of its own, and a process that is killed may leave an empty one (wandb 0.31 keeps rows back for long).

    Whatever goes wrong there is one warning, and the training goes on without it: the rows are in the JSONL file.
    """

    def __init__(
        self,
        params: Wandb,
        stage: str,
        run_id: str,
        config: Mapping[str, Any],
        folder: Path,
        before: Sequence[Mapping[str, float]] = (),
    ) -> None:
        self.run: Any = None
        with self._tolerated():
            self._open(params, stage, run_id, config, folder)
            known = int(self.run.step)
        for row in before:
            if self.run is not None and row["step"] >= known:
                self.log(row)

    @contextlib.contextmanager
    def _tolerated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.run = None
            told = (str(error).splitlines() or [""])[0]
            say(f"warning: wandb gets no more rows ({type(error).__name__}: {told}); they are all in the JSONL file")

    def _open(self, params: Wandb, stage: str, run_id: str, config: Mapping[str, Any], folder: Path) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=params.project,
            mode=params.mode,
            id=run_id,
            name=stage,
            resume="allow",
            config=dict(config),
            dir=str(folder),
            settings=wandb.Settings(silent=True),
        )

    def log(self, row: Mapping[str, float]) -> None:
        """One row at its step."""
        numbers = {name: value for name, value in row.items() if name != "step" and is_number(value)}
        with self._tolerated():
            if self.run is not None:
                self.run.log(numbers, step=int(row["step"]))

    def clip(self, name: str, path: Path, step: int) -> None:
        """An mp4 at its step."""
        with self._tolerated():
            if self.run is not None:
                import wandb

                self.run.log({name: wandb.Video(str(path), format="mp4")}, step=step)

    def close(self) -> None:
        """Finish the run."""
        with self._tolerated():
            if self.run is not None:
                self.run.finish()
