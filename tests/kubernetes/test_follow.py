"""A stage's pod is created once, followed, taken up, deleted whole: the real client against a server of the API.

What a whole training goes through, killed and evicted, is in `make cluster-test`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("dagster_k8s", reason="the extra `kubernetes` is not installed")

from pipelines.kubernetes import submit
from pipelines.kubernetes.follow import run
from pipelines.kubernetes.target import Kubernetes, Resources, Target, Volume
from pipelines.processes import STOPS
from pipelines.stage import StageError
from tests.kubernetes.api import Api


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A cluster, and a project folder to be in."""
    monkeypatch.chdir(tmp_path)
    server = Api(f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    server.kubeconfig(tmp_path / "config")
    before = {number: signal.getsignal(number) for number in STOPS}
    yield server
    for number, known in before.items():  # a launcher listens to its end
        signal.signal(number, known)
    server.stop()


def work(script: str = "print('hello')", key: str = "k", image: str = "here") -> submit.Work:
    """A stage whose container runs a line of Python."""
    (Path("pipelines") / "kubernetes").mkdir(parents=True, exist_ok=True)
    for name in ("pipelines/__init__.py", "pipelines/kubernetes/__init__.py"):
        Path(name).touch()
    Path("pipelines/kubernetes/job.py").write_text(script + "\n")
    block = Kubernetes(volume=Volume(host_path="/", mount="/"), kubeconfig="config", poll_seconds=0.5)
    target = Target(block, Resources(image=image))
    return submit.Work("train", target, ["m", "f"], {"REEL_CODE": "c"}, key, [], submit.reached(block))


def test_a_pod_runs_to_its_end_its_log_is_shown_and_it_is_gone(api: Api, capfd: pytest.CaptureFixture[str]) -> None:
    one = work("import os; print('runs', os.environ['REEL_CODE'], flush=True)")
    assert run(one, lambda: None) == (0, False)
    said = capfd.readouterr().out
    assert "created pod reel-train-" in said and "in namespace lab" in said and "runs c" in said
    assert api.pods == {} and len(api.created) == 1 and not one.note(0).file.exists()


def test_the_exit_code_of_the_stage_is_the_launchers(api: Api) -> None:
    assert run(work("import sys; sys.exit(2)"), lambda: None) == (2, False) and api.pods == {}


def test_a_second_creation_is_refused_by_the_api_and_takes_the_first_up(api: Api) -> None:
    slow = work("import time; time.sleep(60)")
    first = submit.create(slow)
    assert submit.create(slow).token == first.token and len(api.created) == 1
    found = submit.taken_up(slow)
    assert found is not None and found.token == first.token
    with pytest.raises(StageError, match=r"other parameters, code or data.*kubectl -n lab delete pod reel-train"):
        submit.taken_up(work("import time; time.sleep(60)", key="other"))
    with pytest.raises(StageError, match=r"writes the same outputs. Start with `target: kubernetes`"):
        submit.refuse_live("train")


def test_a_pod_that_ended_while_nobody_looked_is_taken_in(api: Api) -> None:
    one = work()
    submit.create(one)
    api.wait(one.name)
    assert run(one, lambda: None) == (0, False) and len(api.created) == 1 and api.pods == {}


def test_an_api_that_does_not_answer_is_not_an_empty_one(api: Api) -> None:
    from pipelines.kubernetes.client import Unanswered

    one = work()
    api.is_away = True
    with pytest.raises(Unanswered, match="503 the server is currently unable"):
        submit.taken_up(one)
    with pytest.raises(Unanswered):
        submit.create(one)
    assert one.note(0).file.exists()  # whether a pod was created is not known


def test_an_image_that_cannot_be_had_ends_the_wait_in_words(api: Api) -> None:
    with pytest.raises(StageError, match="ImagePullBackOff: Back-off pulling image"):
        run(work(image="missing:1"), lambda: None)
    assert api.pods == {}


def test_what_a_pod_reports_reaches_the_channel_that_dagster_opened(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster_pipes import encode_param

    monkeypatch.setenv("DAGSTER_PIPES_MESSAGES", encode_param({"path": str(Path("messages").absolute())}))
    line = json.dumps({"__dagster_pipes_version": "0.1", "method": "report_custom_message", "params": {"payload": 3}})
    assert run(work(f"import sys; print('''{line}''', file=sys.stderr)"), lambda: None)[0] == 0
    assert Path("messages").read_text() == line + "\n"


def test_the_threads_that_a_user_states_hold_in_a_pod(api: Api) -> None:
    Path("params.yaml").write_text("train: {}\n")
    target = Target(Kubernetes(volume=Volume(host_path="/", mount="/"), kubeconfig="config"), Resources(cpus=4))
    for environment, threads in (({}, "4"), ({"OMP_NUM_THREADS": "3"}, "3")):
        made = submit.work("train", target, ["pipelines.m", "f", "--params", "train"], True, environment, [])
        assert made.environment["OMP_NUM_THREADS"] == threads
