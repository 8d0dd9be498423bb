"""`reel accept` with real DVC and git: a refactoring keeps its result, anything else does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.test_identical import STAGE, commit, files, project, run

ROOT = Path(__file__).parents[2]
DVC = (sys.executable, "-m", "dvc")
REFACTORED = STAGE.replace(
    "    objective = Regression(params.noise)\n", "    noise = params.noise\n    objective = Regression(noise)\n"
)
OTHER = STAGE.replace("Regression(params.noise)", "Regression(2 * params.noise + 0.25)")


def reel(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "REEL_PROJECT": str(root), "PYTHONWARNINGS": "ignore", "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dagster_project.cli", *words]
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)


def written(root: Path, text: str) -> None:
    (root / "pipelines/toy/stages.py").write_text(text)


def record(root: Path) -> dict:
    [path] = (root / ".work/toy").glob("*/record.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = project(tmp_path_factory.mktemp("template"))
    commit(root, "the project")
    run(root, *DVC, "repro")
    commit(root, "trained")
    return root


@pytest.fixture
def trained(template: Path, tmp_path: Path) -> Path:
    """A project whose two stages have run, at a commit."""
    return shutil.copytree(template, tmp_path / "project", symlinks=True)


@pytest.mark.costly
def test_a_refactoring_is_accepted_twice_and_all_is_fresh(trained: Path) -> None:
    first, lock = files(trained / "checkpoints/toy"), json.loads((trained / "code.json").read_text())["toy"]
    written(trained, REFACTORED)
    assert "toy/stages.py train" in reel(trained, "status").stdout
    done = reel(trained, "accept", "toy", "--because", "noise has a name")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 steps as by" in done.stdout and "to the last bit: 11 rows of numbers, " in done.stdout
    assert files(trained / "checkpoints/toy") == first, "the checkpoint still says which code trained it"
    assert "Data and pipelines are up to date" in run(trained, *DVC, "status")
    assert "stale" not in reel(trained, "status").stdout
    assert "didn't change, skipping" in (said := run(trained, *DVC, "repro")) and "Running stage" not in said
    [accepted] = record(trained)["accepted"]
    assert accepted["from"] == lock and accepted["because"] == "noise has a name" and accepted["dirty"]
    assert accepted["to"] == json.loads((trained / "code.json").read_text())["toy"] != lock
    assert "- accepted: code" in run(trained, sys.executable, "-m", "pipelines.journal", "--print")

    written(trained, REFACTORED.replace("Regression(noise)", "Regression(float(noise))"))
    assert reel(trained, "accept", "toy", "--because", "once more").returncode == 0
    assert [one["because"] for one in record(trained)["accepted"]] == ["noise has a name", "once more"]
    assert "Data and pipelines are up to date" in run(trained, *DVC, "status")
    assert not list((trained / ".work/toy").glob(".accept*"))


@pytest.mark.costly
def test_other_numbers_are_named_and_nothing_is_recorded(trained: Path) -> None:
    lock = (trained / "dvc.lock").read_bytes()
    written(trained, OTHER)
    done = reel(trained, "accept", "toy", "--because", "it looked harmless")
    assert done.returncode == 1 and "toy: not the same: at step 1, " in done.stderr
    assert (trained / "dvc.lock").read_bytes() == lock and "accepted" not in record(trained)
    assert "toy/stages.py train" in reel(trained, "status").stdout


@pytest.mark.costly
def test_code_that_does_not_run_and_a_stage_that_is_no_training_are_refused(trained: Path) -> None:
    written(trained, REFACTORED.replace("Regression(noise)", "Regression(noise, 1, 2, 3)"))
    done = reel(trained, "accept", "toy", "--because", "x")
    assert done.returncode == 1 and "toy: code of today: it does not run here: TypeError" in done.stderr
    written(trained, STAGE.replace("checkpoint.json", "README.md"))
    done = reel(trained, "accept", "after", "--because", "x")
    assert done.returncode == 1 and "params.yaml: after: is no training" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.costly
def test_what_is_stale_for_more_than_its_code_is_refused(trained: Path) -> None:
    written(trained, REFACTORED)
    text = (trained / "params.yaml").read_text()
    (trained / "params.yaml").write_text(text.replace("steps: 4", "steps: 5"))
    done = reel(trained, "accept", "toy", "--because", "x")
    assert done.returncode == 1 and "not its code alone changed (params: toy.training.steps 4 -> 5" in done.stderr
    (trained / "params.yaml").write_text(text)
    written(trained, STAGE)
    done = reel(trained, "accept", "toy", "--because", "x")
    assert done.returncode == 0 and "toy: fresh; there is nothing to accept" in done.stdout


@pytest.mark.costly
def test_a_result_of_local_changes_is_compared_once_they_are_committed(tmp_path: Path) -> None:
    root = project(tmp_path)
    commit(root, "the project")
    written(root, REFACTORED)
    run(root, *DVC, "repro")
    written(root, STAGE)
    done = reel(root, "accept", "toy", "--because", "x")
    assert done.returncode == 1 and "with local changes that no commit has" in done.stderr
    assert "commit that code if you still have it, or train it anew: `reel run toy`" in done.stderr
    written(root, REFACTORED)
    commit(root, "what had trained")
    written(root, STAGE)
    done = reel(root, "accept", "toy", "--because", "x")
    assert done.returncode == 0, done.stderr


@pytest.mark.costly
def test_without_a_record_or_a_reason_it_refuses(trained: Path) -> None:
    written(trained, REFACTORED)
    assert "give the reason" in reel(trained, "accept", "toy", "--because", " ").stderr
    [path] = (trained / ".work/toy").glob("*/record.json")
    path.unlink()
    done = reel(trained, "accept", "toy", "--because", "x")
    assert done.returncode == 1 and "no record of the run that made the result" in done.stderr
