"""An identical training after a commit leaves identical bytes, and DVC finds all that follows unchanged; what the
launcher runs carries its chain, and the project knows the run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.chain import carried
from pipelines.provenance import lineage, text
from pipelines.stage import RUNS, digest, file_digest
from tests.training.toy import params

ROOT = Path(__file__).parents[2]

STAGE = '''"""A training through the project's own loop, and a stage that reads what it leaves."""
from pathlib import Path

from pipelines.stage import whole_folder, write_metrics
from pipelines.toy.params import AfterParams, ToyParams
from pipelines.toy.regression import Points, Regression, Run, train as train_objective


def train(params: ToyParams, out: Path, metrics: Path, plots: Path) -> None:
    """Train."""
    run = Run.open(params, {}, out=out, metrics=metrics, plots=plots)
    objective = Regression(params.noise)
    train_objective(objective, Points(), run, validate=lambda step: {"loss": float(step)})
    run.finish({"net": objective.net}, {"score": 1.0})


def follow(params: AfterParams, checkpoint: Path, out: Path) -> None:
    """Read the checkpoint."""
    print("the next stage runs", flush=True)
    with whole_folder(out) as folder:
        (folder / "size").write_text(str(len((checkpoint / "checkpoint.json").read_bytes())))
'''
PARAMS = '''"""Values."""
from pipelines.params import Params
from pipelines.toy.regression import ToyParams as ToyParams


class AfterParams(Params):
    """Values of the stage that follows."""

    times: int
'''
LAUNCH = "python -m pipelines.launch --alone pipelines.toy.stages"


def project(root: Path) -> Path:
    """A git repository with the real package, a toy of two stages, and dvc.lock tracked."""
    shutil.copytree(ROOT / "pipelines", root / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    toy = root / "pipelines/toy"
    toy.mkdir()
    (toy / "__init__.py").write_text('"""Toy."""\n')
    (toy / "stages.py").write_text(STAGE)
    (toy / "params.py").write_text(PARAMS)
    shutil.copy(ROOT / "tests/training/toy.py", toy / "regression.py")
    graph = {
        "code": {
            "meta": {"dagster": {"now": "python -m pipelines.code --now"}},
            "cmd": "python -m pipelines.code",
            "deps": ["pipelines", "graph.yaml"],
            "outs": ["code.json"],
        },
        "toy": {
            "cmd": f"{LAUNCH} train --params toy --out checkpoints/toy --metrics metrics/toy.json --plots plots/toy",
            "params": ["toy", {"code.json": ["toy"]}],
            "outs": ["checkpoints/toy"],
            "metrics": [{"metrics/toy.json": {"cache": False}}],
            "plots": ["plots/toy"],
        },
        "after": {
            "cmd": f"{LAUNCH} follow --params after --checkpoint checkpoints/toy --out data/after",
            "deps": ["checkpoints/toy"],
            "params": ["after", {"code.json": ["after"]}],
            "outs": ["data/after"],
        },
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": graph}))
    (root / "graph.yaml").symlink_to("dvc.yaml")
    values = {"toy": params(4).model_dump(mode="json"), "after": {"times": 1}}
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    (root / ".gitignore").write_text("__pycache__\n.work\n/metrics\n/code.json\n/checkpoints\n/plots\n/data\n")
    (root / ".dvcignore").write_text(f"__pycache__\n*.pyc\n.work\n{RUNS}\n")
    run(root, "git", "init", "-q")
    run(root, sys.executable, "-m", "dvc", "init", "-q")
    return root


def run(root: Path, *words: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commit(root: Path, message: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    run(root, "git", "add", "-A")
    run(root, "git", *who, "commit", "-q", "--allow-empty", "-m", message)
    return run(root, "git", "rev-parse", "HEAD").strip()


def files(folder: Path) -> dict[str, str]:
    """Hashes by name, but for who ran it when."""
    inside = (path for path in folder.rglob("*") if path.is_file() and path.name != RUNS)
    return {str(path.relative_to(folder)): file_digest(path) for path in inside}


def check_chain(root: Path, head: str, copy: Path) -> None:
    """What the last stage left tells of both stages and of their runs, wherever it lies, and DVC passes over it."""
    found = lineage(root / "data/after")
    assert {one["stage"] for one in found.nodes.values()} == {"toy", "after"} and found.now == found.artifact
    assert {facts["commit"] for facts in found.runs.values()} == {head}
    said = text(found)
    shutil.copytree(root / "data/after", copy)
    assert f"run: commit {head[:12]}" in text(lineage(copy)), "the copy tells it too"
    assert run(root, sys.executable, "-m", "dvc", "status").strip().endswith("up to date."), "DVC passes over it"
    assert f"run: commit {head[:12]}" in said and "checkpoint: checkpoints/toy" in said and "4 steps" in said
    [toy] = [one for one in found.nodes.values() if one["stage"] == "toy"]
    code = json.loads((root / "code.json").read_text())["toy"]
    assert toy["params"]["training"]["steps"] == 4 and toy["code"] == code
    assert carried(root / "checkpoints/toy")[1] == digest(root / "checkpoints/toy")


@pytest.mark.costly
def test_a_training_after_commits_leaves_the_same_bytes_and_what_follows_stays_fresh(tmp_path: Path) -> None:
    root = project(tmp_path / "project")
    head = commit(root, "the project")
    dvc = (sys.executable, "-m", "dvc")
    assert "the next stage runs" in run(root, *dvc, "repro")
    check_chain(root, head, tmp_path / "copy")
    first, lock = files(root / "checkpoints/toy"), (root / "dvc.lock").read_text()
    record = json.loads((root / "checkpoints/toy/checkpoint.json").read_text())
    assert record["code"] == json.loads((root / "code.json").read_text())["toy"] and len(record["code"]) == 32
    commit(root, "trained")
    run(root, sys.executable, "-m", "pipelines.journal")
    (root / "pipelines/toy/stages.py").write_text(STAGE.replace('"""Train."""', '"""Train it."""'))
    head = commit(root, "a log and a docstring")
    shutil.rmtree(root / ".work")
    run(root, *dvc, "repro", "code")
    run(root, *dvc, "repro", "--force", "--single-item", "toy")
    assert files(root / "checkpoints/toy") == first
    said = run(root, *dvc, "repro")
    assert "the next stage runs" not in said and "Stage 'after' didn't change, skipping" in said
    [known] = [json.loads(path.read_text()) for path in (root / ".work/toy").rglob("record.json")]
    assert known["header"]["code"]["commit"] == head and known["header"]["code"]["identity"] == record["code"]
    locked = [yaml.safe_load(text)["stages"] for text in (lock, (root / "dvc.lock").read_text())]
    assert locked[0]["after"] == locked[1]["after"] and locked[0]["toy"]["params"] == locked[1]["toy"]["params"]
