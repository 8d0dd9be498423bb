"""What starting a stage costs: a launched process that has torch, against a bare process that imports torch."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import launched_toy
from benchmarks.paired import Figure, ratios, seconds
from tests.dagster_dvc import toy

ROUNDS = 5
BARE = (sys.executable, "-c", "import torch")


def measure() -> Iterator[Figure]:
    """One ratio of wall times: the launcher checks, locks, starts the stage's process, and cleans up after it."""
    with tempfile.TemporaryDirectory() as folder:
        root = launched_toy.make(Path(folder), processes=1)
        (root / "params.yaml").write_text("train: {steps: 0}\n")
        code = root / "pipelines" / "toy" / "toy.py"
        code.write_text(f"import torch\n{code.read_text()}")
        launched = (sys.executable, *launched_toy.CMD.split()[1:])
        env = toy.environment()

        def run(command: tuple[str, ...]) -> None:
            subprocess.run(command, cwd=root, env=env, capture_output=True, check=True)

        found = ratios(lambda: run(launched), lambda: run(BARE), ROUNDS, seconds)
    yield Figure(
        "start-up of one launched process", "pipelines.launch", 'python -c "import torch"', "times", found, "at most 2"
    )
