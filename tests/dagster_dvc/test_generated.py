"""Params files that a stage makes: who is stale, why, what is brought up to date before a stage starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dagster_dvc.lock import read_lock
from dagster_dvc.project import DvcProject
from dagster_dvc.refresh import refresh
from dagster_dvc.repro import Repro
from dagster_dvc.runner import Runner
from dagster_dvc.status import plan, stale
from dagster_dvc.versions import code_version, lock_code_version
from tests.dagster_dvc import toy

MARKS = """
import json, sys
from pathlib import Path
values = {name: Path(f"parts/{name}.txt").read_text().strip() for name in ("one", "two")}
if "broken" in values.values():
    sys.exit("parts: a part is broken; mend it")
if sys.argv[1:]:
    why = {"one": ["line 3"], "two": ["a", "b", "c", "d"]}
    print(json.dumps({"values": {"marks.json": values}, "why": {"marks.json": why}}))
else:
    Path("marks.json").write_text(json.dumps(values))
"""
STAGE = """
import sys, time
from pathlib import Path
name = sys.argv[1]
print("made", name, flush=True)
until = time.monotonic() + 60
while Path(f"{name}.wait").exists() and time.monotonic() < until:
    time.sleep(0.05)
Path(f"{name}.out").write_text(name)
"""
GRAPH = """
stages:
  marks:
    cmd: python marks.py
    deps: [marks.py, parts]
    outs: [marks.json]
    meta: {dagster: {now: python marks.py --now}}
  one:
    cmd: python stage.py one
    params: [{marks.json: [one]}]
    outs: [one.out]
  two:
    cmd: python stage.py two
    params: [{marks.json: [two]}]
    outs: [two.out]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    for name, text in {
        "marks.py": MARKS, "stage.py": STAGE, "dvc.yaml": GRAPH, "parts/one.txt": "1", "parts/two.txt": "1"
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    toy.dvc(tmp_path, "init", "--no-scm", "--quiet")
    assert ran(tmp_path) == ["marks", "one", "two"]
    return tmp_path


def ran(root: Path, *words: str) -> list[str]:
    """The stages that a run of these (default: all) executed."""
    project = DvcProject(root)
    summary = Runner(project, project.needed(words or ["*"])).run()
    assert not summary.failed, summary.failed
    return sorted(name for name, result in summary.results.items() if result.outcome == "executed")


def reasons(root: Path) -> dict[str, list[str]]:
    return {name: [str(reason) for reason in found] for name, found in stale(DvcProject(root)).items()}


@pytest.mark.costly
def test_after_an_edit_the_stage_whose_key_changed_is_stale_and_says_why_before_anything_has_run(root: Path) -> None:
    assert reasons(root) == {}
    (root / "parts/one.txt").write_text("2")
    found = reasons(root)
    assert found.pop("marks") == ["data: parts changed"] and found == {"one": ["code: line 3"]}
    assert json.loads((root / "marks.json").read_text())["one"] == "1"
    assert list(plan(DvcProject(root), ["one", "two"])) == ["marks", "one"]
    assert ran(root) == ["marks", "one"] and reasons(root) == {}
    (root / "parts/two.txt").write_text("2")
    assert reasons(root)["two"] == ["code: a, b, c and 1 more"]


@pytest.mark.costly
def test_an_edit_that_changes_no_key_runs_only_the_maker(root: Path) -> None:
    (root / "parts/one.txt").write_text("1\n")
    assert ran(root) == ["marks"]


@pytest.mark.costly
def test_code_versions_follow_the_key_of_the_stage(root: Path) -> None:
    (root / "parts/one.txt").write_text("2")
    project = DvcProject(root)
    lock = read_lock(project)
    same = {
        name: code_version(project, s) == lock_code_version(project, s, lock[name])
        for name, s in project.stages.items()
    }
    assert same == {"marks": True, "one": False, "two": True}


@pytest.mark.costly
def test_one_stage_alone_gets_its_file_up_to_date_first_and_hears_of_it(root: Path) -> None:
    (root / "parts/one.txt").write_text("2")
    said: list[str] = []
    assert refresh(DvcProject(root), "one", said.append) is None
    assert said == ["marks.json was not up to date: marks runs first"]
    assert json.loads((root / "marks.json").read_text())["one"] == "2"
    assert refresh(DvcProject(root), "one", said.append) is None and len(said) == 1


@pytest.mark.costly
def test_a_file_that_cannot_be_made_starts_no_stage_and_is_told_in_one_line(root: Path) -> None:
    (root / "parts/one.txt").write_text("broken")
    assert "parts: a part is broken; mend it" in reasons(root)["marks"][0]
    failed = refresh(DvcProject(root), "one")
    assert failed is not None and failed.stage == "one" and "parts: a part is broken; mend it" in failed.error
    assert (root / "one.out").read_text() == "one"


@pytest.mark.costly
def test_a_stage_that_runs_keeps_no_other_from_starting(root: Path) -> None:
    (root / "one.wait").write_text("")
    running = Repro(DvcProject(root), "one", options=("--force",))
    lines = running._process.stdout
    assert lines is not None and any("made one" in line for line in lines)
    (root / "parts/two.txt").write_text("2")
    assert refresh(DvcProject(root), "two") is None
    assert Repro(DvcProject(root), "two").result().outcome == "executed"
    (root / "one.wait").unlink()
    assert running.result().exit_code == 0
    assert reasons(root).keys() == {"marks"}
    assert ran(root) == ["marks"]


@pytest.mark.costly
@pytest.mark.parametrize("content", ["no json", "{}", "[1]"])
def test_a_file_that_was_edited_by_hand_is_made_again_and_runs_nothing(root: Path, content: str) -> None:
    (root / "marks.json").unlink()
    (root / "marks.json").write_text(content)
    assert reasons(root).keys() == {"marks"}
    assert ran(root) == ["marks"] or json.loads((root / "marks.json").read_text()) == {"one": "1", "two": "1"}
    assert reasons(root) == {}
