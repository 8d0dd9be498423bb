"""Our staleness is DVC's, for every kind of edit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dagster_dvc import status
from dagster_dvc.lock import read_lock
from dagster_dvc.project import DvcProject, ProjectError
from dagster_dvc.runner import Runner
from tests.dagster_dvc import toy
from tests.dagster_dvc.edits import EDITS, Edited

REPO = Path(__file__).parents[2]


@pytest.mark.parametrize("edit", EDITS)
def test_the_stale_stages_are_those_of_dvc_status(edited: dict[str, Edited], edit: str) -> None:
    found = status.stale(DvcProject(edited[edit].root))
    if edited[edit].refusal:  # then nothing that reads it is fresh, and the reason names the file
        assert any("work/numbers/" in reason.what for reason in found["left"]), found
    else:
        assert set(found) == edited[edit].stale


def test_reasons_name_the_key_and_both_values(root: Path) -> None:
    toy.edit(root, "params.yaml", "amount: 2", "amount: 7")
    [reason] = status.stale(DvcProject(root))["right"]
    assert str(reason) == "params: right.amount 2 -> 7"


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ("", "dvc.lock:1: empty"),
        ("- a\n", "dvc.lock:1: not a DVC lock file"),
        ("prepare:\n  cmd: python prepare.py\n", "dvc.lock:1: no `schema: '2.0'`"),
        ("schema: '2.0'\nstages:\n  left:\n    deps: []\n", "dvc.lock:3: stage 'left' has no cmd"),
        ("schema: '2.0'\nstages:\n  a:\n    cmd: a\n    deps:\n    - md5: b\n", "dvc.lock:3: stage 'a' has a depend"),
    ],
)
def test_a_lock_file_that_dvc_refuses_is_refused(root: Path, now: str, said: str) -> None:
    (root / "dvc.lock").write_text(now)
    with pytest.raises(ProjectError) as caught:
        status.stale(DvcProject(root))
    assert str(caught.value).startswith(said)
    assert toy.dvc(root, "status", check=False).returncode != 0


def test_what_lies_at_an_address_is_asked_for_by_dvc_when_the_stage_runs(root: Path) -> None:
    toy.edit(root, "dvc.yaml", "deps: [train.py, ", "deps: [train.py, 'https://host.example/a.bin', ")
    assert [str(why) for why in status.stale(DvcProject(root))["train"]] == ["data: https://host.example/a.bin is new"]
    toy.edit(
        root,
        "dvc.lock",
        "    - path: train.py\n",
        "    - path: https://host.example/a.bin\n      etag: a\n    - path: train.py\n",
    )
    assert status.stale(DvcProject(root)) == {}
    runner = Runner(DvcProject(root), ["train", "left"])
    assert [runner._is_unchanged(name) for name in ("train", "left")] == [False, True]


def test_a_plan_follows_the_graph(root: Path) -> None:
    toy.edit(root, "params.yaml", "amount: 2", "amount: 7")
    project = DvcProject(root)
    assert list(status.plan(project, project.stages)) == ["right", "train", "evaluate"]
    assert list(status.plan(project, ["left"])) == []


def test_a_plan_leaves_out_what_is_frozen_and_what_only_follows_it(root: Path) -> None:
    toy.edit(root, "dvc.yaml", "cmd: python add.py right", "frozen: true\n    cmd: python add.py right")
    toy.edit(root, "params.yaml", "amount: 2", "amount: 7")
    project = DvcProject(root)
    assert list(status.plan(project, project.stages)) == []
    toy.edit(root, "source/numbers.txt", "3", "4")
    project = DvcProject(root)
    assert list(status.plan(project, project.stages)) == ["prepare", "left", "train", "evaluate"]


def test_an_ignored_file_does_not_count(root: Path) -> None:
    (root / "work/numbers/__pycache__").mkdir()
    (root / "work/numbers/__pycache__/x.pyc").write_text("x")
    assert status.stale(DvcProject(root)) == {}
    assert toy.dvc(root, "status", "--json").stdout.strip() == "{}"


def test_looking_at_a_project_imports_nothing_that_only_a_run_needs(root: Path) -> None:
    """`reel status` and `reel --help` are called all day: each of these costs as much as all the rest."""
    assert read_lock(DvcProject(root))  # kept from now on
    heavy = "{'dagster', 'dvc', 'pydantic', 'ruamel.yaml', 'yaml', 'psutil', 'importlib.metadata', 'subprocess'}"
    code = (
        "import contextlib, io, sys\nfrom dagster_project import cli\n"
        "with contextlib.redirect_stdout(io.StringIO()): cli.main(['status'])\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    env = {**os.environ, "REEL_PROJECT": str(root), "PYTHONPATH": str(REPO), "DAGSTER_HOME": str(root / ".dagster")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
