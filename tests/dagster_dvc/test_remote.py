"""A fresh clone with a remote: filled by a pull, not computed again, and told so when nobody asked."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dagster_dvc.project import DvcProject
from dagster_dvc.remote import hint, pullable
from dagster_dvc.runner import Options, Runner
from tests.dagster_dvc import toy


@pytest.fixture
def clone(root: Path, tmp_path: Path) -> Path:
    """What git holds of the toy project, and a remote that holds its data."""
    toy.dvc(root, "remote", "add", "--default", "store", str(tmp_path / "store"))
    toy.dvc(root, "push", "--quiet")
    for folder in (".dvc/cache", ".dvc/tmp", "work", "plots", "metrics"):
        shutil.rmtree(root / folder, ignore_errors=True)
    return root


def outcomes(root: Path, **options: bool) -> dict[str, str]:
    project = DvcProject(root)
    done = Runner(project, project.stages, Options(**options)).run()
    return {name: result.outcome for name, result in done.results.items()}


@pytest.mark.costly
def test_everything_comes_from_the_remote_when_asked_for(clone: Path) -> None:
    assert outcomes(clone, pull=True) == dict.fromkeys(DvcProject(clone).stages, "restored")
    assert toy.dvc(clone, "status", "--json").stdout.strip() == "{}"


@pytest.mark.costly
def test_without_the_flag_it_is_said_in_one_line(clone: Path) -> None:
    project = DvcProject(clone)
    assert pullable(project, project.stages) == list(project.stages)
    said = hint(project, project.stages)
    assert said is not None and said.startswith("prepare, left, right and 2 more: ") and "remote 'store'" in said
    assert hint(project, ["left"]) is not None
    assert set(outcomes(clone).values()) == {"executed"}
    done = DvcProject(clone)
    assert hint(done, done.stages) is None


@pytest.mark.costly
@pytest.mark.parametrize("words", [["status"], ["plan"]])
def test_what_only_looks_says_it_too(clone: Path, words: list[str]) -> None:
    command = [sys.executable, "-m", "dagster_project.cli", *words]
    for said in (True, False):
        env = toy.environment()
        done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if "`dvc pull` first" in line]
        assert len(lines) == said and done.returncode == 0, done.stderr
        toy.dvc(clone, "pull", "--quiet")


@pytest.mark.costly
def test_what_changed_and_what_follows_it_is_computed(clone: Path) -> None:
    toy.edit(clone, "params.yaml", "amount: 2,", "amount: 3,")
    project = DvcProject(clone)
    assert pullable(project, project.stages) == ["prepare", "left"]
    assert outcomes(clone, pull=True) == {
        **dict.fromkeys(("prepare", "left"), "restored"),
        **dict.fromkeys(("right", "train", "evaluate"), "executed"),
    }


def test_without_a_remote_nothing_is_promised(root: Path) -> None:
    shutil.rmtree(root / ".dvc/cache/files")
    shutil.rmtree(root / "work")
    project = DvcProject(root)
    assert pullable(project, project.stages) and hint(project, project.stages) is None
