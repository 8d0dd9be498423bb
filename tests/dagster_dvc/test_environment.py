"""DVC and Dagster in one environment, with git and without."""

import subprocess
from pathlib import Path

import pytest

from tests.dagster_dvc import toy


@pytest.mark.slow
def test_dvc_experiments_with_set_params_work_in_a_git_clone(tmp_path: Path) -> None:
    root = toy.make(tmp_path)
    (root / ".gitignore").write_text("/work\n/metrics\n/plots\n/.work\n__pycache__\n")

    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], cwd=root, check=True, capture_output=True
        )

    git("init", "-q")
    toy.dvc(root, "config", "--unset", "core.no_scm")
    git("add", ".")
    git("commit", "-qm", "toy")
    env_dvc = toy.dvc(root, "exp", "run", "-S", "train.total=7", "train")
    assert "total: 7" in (root / "params.yaml").read_text()
    assert "Ran experiment" in env_dvc.stdout


def test_a_tree_without_git_reproduces(root: Path) -> None:
    assert not (root / ".git").exists()
    assert "up to date" in toy.dvc(root, "repro").stdout
