"""A real web server, daemon and run workers on the toy project, over GraphQL."""

import shutil
from pathlib import Path

import pytest

from tests.dagster_dvc import toy
from tests.dagster_project.server import serving, stage_processes, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = toy.make(tmp_path_factory.mktemp("toy"))
    toy.dvc(root, "repro")
    return root


def test_a_day_with_the_web_interface(template: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(template, tmp_path / "project"))
    with serving(root) as server:
        # An empty history fills itself from dvc.lock.
        wait_for(lambda: set(server.states().values()) == {"FRESH"}, "the graph to be seeded")

        # An edit shows by itself.
        toy.edit(root, "params.yaml", "steps: 0", "steps: 400")
        wait_for(lambda: server.states()["train"] == "STALE", "the edit to show")

        # A run tells how far it is while it runs, and a stop stops it.
        run = server.launch("train")
        wait_for(lambda: any("step " in message for message in server.messages(run)), "progress in the log")
        server.terminate(run)
        took = wait_for(lambda: not stage_processes(root), "the stage to be gone", 15)
        assert took < 10
        assert server.finished(run) == "CANCELED"
        assert (root / "work/model").exists() or int((root / ".work/step").read_text()) > 0

        # It goes on where it was; what follows it can be run in the same go.
        toy.edit(root, "params.yaml", "steps: 400", "steps: 60")
        wait_for(lambda: server.states()["train"] == "STALE", "the second edit to show")
        run = server.launch("train", "evaluate/scores", "evaluate/pictures")
        assert server.finished(run) == "SUCCESS"
        wait_for(lambda: set(server.states().values()) == {"FRESH"}, "the graph to be green")

        # A repro in a terminal turns the graph green as well.
        toy.edit(root, "params.yaml", "amount: 2", "amount: 6")
        wait_for(lambda: server.states()["right"] == "STALE", "the third edit to show")
        toy.dvc(root, "repro")
        wait_for(lambda: set(server.states().values()) == {"FRESH"}, "the terminal's run to show")

        # A failed gate stops what follows.
        toy.edit(root, "params.yaml", "gate: 1", "gate: 100000")
        wait_for(lambda: server.states()["train"] == "STALE", "the fourth edit to show")
        run = server.launch("train", "evaluate/scores", "evaluate/pictures")
        assert server.finished(run) == "FAILURE"
        started = [event["stepKey"] for event in server.events(run) if event["__typename"] == "ExecutionStepStartEvent"]
        assert started == ["repro_train"]
    assert stage_processes(root) == []


def test_two_runs_of_one_stage_queue_and_the_second_reuses(template: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(template, tmp_path / "project"))
    toy.edit(root, "params.yaml", "steps: 0", "steps: 50")
    with serving(root) as server:
        first, second = server.launch("train"), server.launch("train")
        assert server.finished(first) == server.finished(second) == "SUCCESS"
        text = (root / ".work/times.json").read_text()
        assert text.count(".") == 1  # one recorded time: one of them trained
