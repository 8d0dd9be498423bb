"""What starting a stage costs beside a bare process that imports torch; a training, beside one that makes a step."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from benchmarks import launched_toy
from benchmarks.paired import Figure, ratios, seconds
from tests.dagster_dvc import toy
from tests.training.toy import params

ROUNDS = 5
BARE = (sys.executable, "-c", "import torch")
STAGE = """
from pathlib import Path

from starttoy.params import ToyParams
from pipelines.training.loop import train as run_training
from pipelines.training.run import Run
from tests.training import toy


def train(params: ToyParams, out: Path, metrics: Path) -> None:
    run_training(toy.Regression(), toy.Points(), Run.open(params, {}, out=out, metrics=metrics, plots=out))
    Path("ended").touch()
"""
PARAMS = """
from pipelines.params import Params, Training


class ToyParams(Params):
    training: Training
"""
ONE_STEP = """
import torch

network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
optimizer = torch.optim.AdamW(network.parameters(), fused=True)
network(torch.randn(8, 6)).square().mean().backward()
optimizer.step()
print("step 1/1", flush=True)
"""


def _until_a_step(command: tuple[str, ...], cwd: Path) -> float:
    """Seconds until a new run says that step 1 is made; then it is ended."""
    shutil.rmtree(cwd / ".work", ignore_errors=True)
    began, found = time.perf_counter(), None
    environment = toy.environment() | {"PYTHONPATH": f"{cwd}:{launched_toy.REPO}"}
    with subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "step 1/" in line:
                found = time.perf_counter() - began
                break
        process.terminate()
    assert found is not None, "it ended before its first step"
    return found


def first_step() -> Figure:
    """From the launcher's start to the end of step 1: checks, lock, the stage's process, its imports, the loop."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "starttoy").mkdir()
        for name, text in (("__init__", ""), ("train", STAGE), ("params", PARAMS)):
            (root / "starttoy" / f"{name}.py").write_text(text)
        flags = "--params toy --out out --metrics metrics.json"
        cmd = f"python -m pipelines.launch --alone starttoy.train train {flags}"
        (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"toy": {"cmd": cmd}}}))
        (root / "params.yaml").write_text(
            yaml.safe_dump({"toy": {"training": params(steps=100_000).training.model_dump(mode="json")}})
        )
        launched = (sys.executable, *cmd.split()[1:])
        bare = (sys.executable, "-c", ONE_STEP)
        _until_a_step(launched, root)
        found = tuple(_until_a_step(launched, root) / _until_a_step(bare, root) for _ in range(ROUNDS))
    peer = "a bare process that imports torch and makes one"
    return Figure("start until step 1", "a launched training", peer, "times", found, "at most 4")


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
    yield first_step()
