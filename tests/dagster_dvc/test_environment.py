"""DVC and Dagster in one environment, with git and without."""

import json
import subprocess
from pathlib import Path

import pytest

from dagster_dvc.lock import read_lock
from dagster_dvc.project import DvcProject
from dagster_dvc.status import stale
from tests.dagster_dvc import toy

SHOW = """
import json
from pathlib import Path
from pipelines.params import Count, Params, Positive, parse_section
class NetParams(Params):
    learning_rate: Positive
    steps: Count
    clock: str
Path("seen.json").write_text(parse_section(NetParams, "net").model_dump_json())
"""


def clone(root: Path) -> Path:
    """The project as a clone of git, in which `dvc exp` works."""
    (root / ".gitignore").write_text("/work\n/metrics\n/plots\n/.work\n__pycache__\n")

    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], cwd=root, check=True, capture_output=True
        )

    git("init", "-q")
    toy.dvc(root, "config", "--unset", "core.no_scm")
    git("add", ".")
    git("commit", "-qm", "toy")
    return root


@pytest.mark.slow
def test_dvc_experiments_with_set_params_work_in_a_git_clone(tmp_path: Path) -> None:
    root = clone(toy.make(tmp_path))
    env_dvc = toy.dvc(root, "exp", "run", "-S", "train.total=7", "train")
    assert "total: 7" in (root / "params.yaml").read_text()
    assert "Ran experiment" in env_dvc.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("written", "words", "expected"),
    [
        ("learning_rate: 0.001, steps: 010, clock: 13:20", ["net.learning_rate=0.00005"], (5e-5, 10, "13:20")),
        ("learning_rate: 1e-4, steps: 8, clock: on", ["net.steps=12"], (1e-4, 12, "on")),
    ],
)
def test_a_stage_computes_with_the_values_that_dvc_records_for_an_experiment(
    tmp_path: Path, written: str, words: list[str], expected: tuple[float, int, str]
) -> None:
    """DVC writes 0.00005 as 5e-05, which YAML 1.1 reads as text; 010 is eight there, and 13:20 is 800."""
    stage = "{stages: {net: {cmd: python show.py, deps: [show.py], params: [net], outs: [seen.json]}}}"
    root = clone(toy.make(tmp_path, stage, show__py=SHOW, params__yaml=f"net: {{{written}}}\n"))
    (root / ".gitignore").write_text("/seen.json\n__pycache__\n")
    toy.dvc(root, "exp", "run", *[word for value in words for word in ("-S", value)])
    seen, project = json.loads((root / "seen.json").read_text()), DvcProject(root)
    recorded = read_lock(project)["net"].params["params.yaml"]["net"]
    assert seen == recorded == dict(zip(("learning_rate", "steps", "clock"), expected, strict=True))
    assert stale(project) == {}


def test_a_tree_without_git_reproduces(root: Path) -> None:
    assert not (root / ".git").exists()
    assert "up to date" in toy.dvc(root, "repro").stdout
