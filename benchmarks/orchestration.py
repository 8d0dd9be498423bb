"""What the platform costs: loading the code location, a run in which nothing changed, a whole graph; against DVC."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.paired import Figure, ratios, seconds
from tests.dagster_dvc import toy

REPO = Path(__file__).parents[1]
REEL = (sys.executable, "-m", "dagster_project.cli", "run", "--all")
DVC = (sys.executable, "-m", "dvc", "repro")
DAGSTER = (sys.executable, "-W", "ignore", "-m", "dagster", "asset", "materialize", "--select", "*")
MODULE = ("-m", "dagster_project.definitions")
LOAD = (sys.executable, "-W", "ignore", "-c", "import dagster_project.definitions as d; d.defs.get_repository_def()")
BARE = (sys.executable, "-W", "ignore", "-c", "import dagster")
STAGE_SECONDS = 5
ROUNDS = 3


@dataclass(frozen=True)
class Toy:
    """The toy project and the environment of its processes."""

    root: Path

    def run(self, command: tuple[str, ...], fresh: bool = False) -> None:
        """Run to the end; `fresh` as if no stage had ever run."""
        if fresh:
            for name in ("work", "metrics", "plots", ".dvc/cache"):
                shutil.rmtree(self.root / name, ignore_errors=True)
            (self.root / "dvc.lock").unlink(missing_ok=True)
        env = {**toy.environment(), "REEL_PROJECT": str(self.root), "DAGSTER_HOME": str(self.root / ".dagster")}
        where = self.root if command is DVC else REPO
        subprocess.run(command, cwd=where, env=env, capture_output=True, check=True)


def measure() -> Iterator[Figure]:
    """Ratios of wall times, each pair in turn."""
    with tempfile.TemporaryDirectory() as folder:
        made = Toy(toy.make(Path(folder)))
        (made.root / ".dagster").mkdir()
        (made.root / ".dagster/dagster.yaml").write_text("telemetry: {enabled: false}\n")
        for side in ("'on', seconds: 0", "amount: 2, seconds: 0"):
            toy.edit(made.root, "params.yaml", side, side[:-1] + str(STAGE_SECONDS))
        yield from _figures(made)


def _figures(made: Toy) -> Iterator[Figure]:
    def ratio(
        ours: tuple[str, ...], peer: tuple[str, ...], fresh: bool = False, rounds: int = ROUNDS
    ) -> tuple[float, ...]:
        return ratios(lambda: made.run(ours, fresh), lambda: made.run(peer, fresh), rounds, seconds)

    dagster = DAGSTER + MODULE
    yield Figure("load the code location", "5 stages", "import dagster", "times", ratio(LOAD, BARE), "at most 2")
    yield Figure("nothing changed", "reel run --all", "dvc repro", "times", ratio(REEL, DVC), "at most 1")
    yield Figure("nothing changed", "Dagster, 6 assets", "dvc repro", "times", ratio(dagster, DVC), "Dagster's start")
    parallel = ratio(REEL, DVC, fresh=True, rounds=1)
    yield Figure("toy graph, 2 x 5 s side by side", "reel run --all", "dvc repro", "times", parallel, "below 1")
    whole = ratio(dagster, DVC, fresh=True, rounds=1)
    yield Figure(
        "toy graph, 2 x 5 s side by side", "Dagster", "dvc repro", "times", whole, "at most 1.15 when stages are long"
    )
