"""A stage that is set aside runs when it is named, and is one like the others from then on."""

from pathlib import Path

import pytest

from dagster_dvc.project import DvcProject
from dagster_dvc.runner import Runner
from dagster_dvc.status import plan, stale
from tests.dagster_dvc import toy

GRAPH = """
stages:
  data:
    cmd: mkdir -p models && echo 1 > numbers
    outs: [numbers]
  main:
    cmd: mkdir -p models && cp numbers models/main
    deps: [numbers]
    outs: [models/main]
  baseline:
    meta: {dagster: {optional: true, group: models}}
    cmd: mkdir -p models && cp numbers models/baseline
    deps: [numbers]
    outs: [models/baseline]
  judge:
    cmd: ls models > judged
    deps: [models]
    outs: [judged]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return toy.make(tmp_path / "project", GRAPH)


def run(root: Path, *words: str) -> str:
    """Runs what the words need; returns what was judged."""
    inside = DvcProject(root)
    done = Runner(inside, inside.needed(words)).run()
    assert not done.failed, [result.error for result in done.failed]
    return (root / "judged").read_text().strip()


@pytest.mark.costly
def test_what_reads_the_whole_folder_runs_without_it(project: Path) -> None:
    assert DvcProject(project).select(["*"]) == ["data", "main", "judge"]
    assert list(plan(DvcProject(project), ["judge"])) == ["data", "main", "judge"]
    assert run(project, "judge") == "main"
    now = DvcProject(project)
    assert now.set_aside == {"baseline"} and not set(stale(now)) - now.set_aside
    assert "baseline" not in now.select(["group:models"]) + now.select(["data+"]) + now.select(["base*"])


@pytest.mark.costly
def test_its_name_runs_it_and_from_then_on_it_belongs_to_the_graph(project: Path) -> None:
    run(project, "judge")
    assert DvcProject(project).select(["+baseline"]) == ["data", "baseline"]
    run(project, "baseline")
    now = DvcProject(project)
    assert not now.set_aside and "judge" in stale(now), "what reads the folder is stale, as after any new checkpoint"
    assert run(project, "judge").split() == ["baseline", "main"]
    assert DvcProject(project).select(["*"]) == ["data", "main", "baseline", "judge"]


@pytest.mark.costly
def test_in_a_chain_of_names_what_follows_it_runs_too(project: Path) -> None:
    assert DvcProject(project).select(["baseline+"]) == ["baseline", "judge"]


CHAIN = GRAPH.replace(
    "  judge:",
    """  refined:
    meta: {dagster: {optional: true}}
    cmd: cp models/baseline models/refined
    deps: [models/baseline]
    outs: [models/refined]
  judge:""",
)


@pytest.mark.costly
def test_what_an_optional_stage_needs_runs_with_it(tmp_path: Path) -> None:
    root = toy.make(tmp_path / "project", CHAIN)
    assert DvcProject(root).set_aside == {"baseline", "refined"}
    assert DvcProject(root).select(["+refined"]) == ["data", "baseline", "refined"]
    assert list(plan(DvcProject(root), ["refined"])) == ["data", "baseline", "refined"]


@pytest.mark.costly
def test_a_stage_that_another_one_reads_by_name_is_not_aside(tmp_path: Path) -> None:
    root = toy.make(tmp_path / "project", CHAIN.replace("deps: [models]", "deps: [models, models/refined]"))
    assert not DvcProject(root).set_aside
    assert run(root, "judge") == "baseline\nmain\nrefined"
