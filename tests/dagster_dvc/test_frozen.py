"""Frozen stages: brought back or refused, never handed to ``dvc repro``, which would record what lies there."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from dagster_dvc.project import DvcProject
from dagster_dvc.repro import Result
from dagster_dvc.runner import Options, Runner
from tests.dagster_dvc import toy
from tests.dagster_dvc.dagster_toy import QUIET, materialize

pytestmark = QUIET


@pytest.fixture
def root(root: Path) -> Path:
    """The toy project with a frozen stage; its output is in the cache."""
    toy.edit(root, "dvc.yaml", "cmd: python add.py right", "frozen: true\n    cmd: python add.py right")
    return root


def run(root: Path, *names: str, **options: bool) -> dict[str, Result]:
    project = DvcProject(root)
    return Runner(project, names or project.stages, Options(**options)).run().results


def switch_branch(root: Path) -> str:
    """What ``git checkout`` of another branch does: dvc.lock is the other's, the data stays. Returns the right data."""
    other = (root / "work/right").read_text()
    toy.edit(root, "dvc.yaml", "frozen: true\n    cmd: python add.py right", "cmd: python add.py right")
    lock = (root / "dvc.lock").read_text()
    toy.edit(root, "params.yaml", "amount: 2,", "amount: 3,")
    toy.dvc(root, "repro", "right")
    assert (root / "work/right").read_text() != other
    toy.edit(root, "params.yaml", "amount: 3,", "amount: 2,")
    toy.edit(root, "dvc.yaml", "cmd: python add.py right", "frozen: true\n    cmd: python add.py right")
    (root / "dvc.lock").write_text(lock)
    return other


@pytest.mark.costly
def test_the_output_of_another_branch_is_replaced_by_the_recorded_one(root: Path) -> None:
    recorded = switch_branch(root)
    lock = (root / "dvc.lock").read_text()
    results = run(root)
    assert {name: result.outcome for name, result in results.items()} == {
        **dict.fromkeys(("prepare", "left", "train", "evaluate"), "unchanged"),
        "right": "restored",
    }
    assert (root / "work/right").read_text() == recorded
    assert (root / "dvc.lock").read_text() == lock


@pytest.mark.costly
def test_the_same_holds_in_dagster(root: Path) -> None:
    recorded = switch_branch(root)
    lock = (root / "dvc.lock").read_text()
    with dg.DagsterInstance.ephemeral() as instance:
        assert materialize(root, instance, "right", "train").success
    assert (root / "work/right").read_text() == recorded
    assert (root / "dvc.lock").read_text() == lock


@pytest.mark.costly
@pytest.mark.parametrize("dagster", [False, True])
def test_what_stands_nowhere_else_is_refused_and_kept(root: Path, dagster: bool) -> None:
    (root / "work/right").unlink()
    (root / "work/right").write_text("[5.0]")
    lock = (root / "dvc.lock").read_text()
    if dagster:
        with dg.DagsterInstance.ephemeral() as instance:
            [event] = materialize(root, instance, "right").get_step_failure_events()
            said = str(event.step_failure_data.error)
    else:
        results = run(root)
        assert "train" not in results
        said = results["right"].error
    assert "dvc.yaml:16: stage 'right' is frozen, and work/right is not what dvc.lock records" in said
    assert (root / "work/right").read_text() == "[5.0]"
    assert (root / "dvc.lock").read_text() == lock


def test_force_runs_nothing_that_is_frozen(root: Path) -> None:
    toy.edit(root, "params.yaml", "amount: 2,", "amount: 3,")
    lock = (root / "dvc.lock").read_text()
    assert run(root, "right", force=True)["right"].outcome == "unchanged"
    assert (root / "dvc.lock").read_text() == lock


@pytest.mark.costly
def test_a_frozen_stage_that_never_ran_is_refused(tmp_path: Path) -> None:
    root = toy.make(tmp_path)
    toy.edit(root, "dvc.yaml", "cmd: python add.py right", "frozen: true\n    cmd: python add.py right")
    (root / "work").mkdir()
    (root / "work/right").write_text("[1.0]")
    assert "frozen and was never recorded" in run(root, "right")["right"].error
    assert not (root / "dvc.lock").exists()


@pytest.mark.costly
def test_an_output_that_the_cache_lost_comes_from_the_remote_when_asked_for(root: Path, tmp_path: Path) -> None:
    toy.dvc(root, "remote", "add", "--default", "store", str(tmp_path / "store"))
    toy.dvc(root, "push", "--quiet")
    before = (root / "work/right").read_text()
    (root / "work/right").unlink()
    shutil.rmtree(root / ".dvc/cache/files")
    assert "dvc pull right" in run(root, "right")["right"].error
    assert run(root, "right", pull=True)["right"].outcome == "restored"
    assert (root / "work/right").read_text() == before
