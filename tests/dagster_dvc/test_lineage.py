"""Where a result came from, also when it is gone from the workspace."""

from pathlib import Path

import pytest

from dagster_dvc.lineage import tree
from dagster_dvc.lock import read_lock
from dagster_dvc.project import DvcProject, ProjectError
from tests.dagster_dvc import toy


def test_the_tree_reaches_from_a_stage_to_the_source_with_params_and_code(root: Path) -> None:
    text = tree(DvcProject(root), "train")
    assert text.splitlines()[0].endswith("by train, from dvc.lock, in the workspace")
    for part in ("train.total = 3", "code train.py", "left.amount = 0.0001", "source/numbers.txt"):
        assert part in text
    assert text == tree(DvcProject(root), "work/model")


@pytest.mark.costly
def test_a_result_that_is_gone_is_found_by_its_hash(root: Path) -> None:
    value = read_lock(DvcProject(root))["train"].outs["work/model"].hash
    assert value
    toy.edit(root, "params.yaml", "total: 3", "total: 5")
    toy.dvc(root, "repro", "train")
    text = tree(DvcProject(root), value[:8])
    assert text.splitlines()[0].endswith("by train, from run cache, not in the workspace")
    assert "train.total = 3" in text


def test_an_unknown_name_lists_what_there_is(root: Path) -> None:
    with pytest.raises(ProjectError, match="give a stage \\(prepare, left"):
        tree(DvcProject(root), "nothing")
