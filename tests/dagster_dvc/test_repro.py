"""Running stages through DVC: outcomes, order, failure, one writer, and stopping."""

import threading
import time
from pathlib import Path

import pytest

from dagster_dvc.graph import chains
from dagster_dvc.meta import complaints
from dagster_dvc.project import DvcProject
from dagster_dvc.repro import Repro, expected_seconds, recorded_seconds
from dagster_dvc.runner import Options, Runner, Summary
from dagster_dvc.running import running
from dagster_dvc.status import stale
from dagster_dvc.supervise import descendants
from tests.dagster_dvc import toy


def run(root: Path, *words: str, **options: object) -> Summary:
    project = DvcProject(root)
    return Runner(project, project.select(words or ["*"]), Options(**options)).run()  # type: ignore[arg-type]


def outcomes(summary: Summary) -> dict[str, str]:
    return {name: result.outcome for name, result in summary.results.items()}


@pytest.mark.costly
def test_only_what_changed_runs_and_going_back_comes_from_the_run_cache(root: Path) -> None:
    toy.edit(root, "params.yaml", "amount: 2", "amount: 5")
    assert outcomes(run(root)) == dict(
        prepare="unchanged", left="unchanged", right="executed", train="executed", evaluate="executed"
    )
    toy.edit(root, "params.yaml", "amount: 5", "amount: 2")
    assert outcomes(run(root))["right"] == "restored"
    assert outcomes(run(root)) == dict.fromkeys(["prepare", "left", "right", "train", "evaluate"], "unchanged")
    assert set(recorded_seconds(DvcProject(root))) == {"right", "train", "evaluate"}


def test_dvc_itself_reports_an_unchanged_stage(root: Path) -> None:
    result = Repro(DvcProject(root), "train").result()
    assert (result.outcome, result.succeeded) == ("unchanged", True)


@pytest.mark.costly
def test_independent_stages_run_side_by_side(root: Path) -> None:
    toy.edit(root, "params.yaml", "word: 'on', seconds: 0", "word: 'on', seconds: 1.5")
    toy.edit(root, "params.yaml", "amount: 2, seconds: 0", "amount: 2, seconds: 1.5")
    together: list[set[str]] = []

    def note(stage: str, line: str) -> None:
        together.append(set(runner.running))

    project = DvcProject(root)
    runner = Runner(project, ["left", "right"], Options(jobs=2), on_line=note)
    assert outcomes(runner.run()) == {"left": "executed", "right": "executed"}
    assert {"left", "right"} in together


CHAINS = """
stages:
  alone: {cmd: date > alone, outs: [alone], meta: {dagster: {seconds: 30}}}
  short: {cmd: date > short, outs: [short], meta: {dagster: {seconds: 20}}}
  first: {cmd: date > first, outs: [first], meta: {dagster: {seconds: 10}}}
  second: {cmd: cat first > second, deps: [first], outs: [second], meta: {dagster: {seconds: 25}}}
"""


@pytest.mark.costly
def test_the_longest_chain_starts_first_by_what_stages_say_and_then_by_what_they_took(root: Path) -> None:
    (root / "dvc.yaml").write_text(CHAINS)
    (root / "dvc.lock").unlink()
    assert list(run(root, jobs=1).results) == ["first", "alone", "second", "short"]
    (root / ".work/times.json").write_text('{"short": [7.0, 99.0], "second": [1.0]}')
    assert expected_seconds(DvcProject(root)) == {"alone": 30, "short": 99, "first": 10, "second": 1}
    assert list(run(root, jobs=1, force=True).results) == ["short", "alone", "first", "second"]


def test_what_is_not_known_of_a_chain_counts_as_the_mean_of_what_is() -> None:
    upstream = {"a": set[str](), "b": {"a"}, "c": {"a", "b"}, "d": set[str]()}
    assert chains(upstream, {}) == {"a": 3, "b": 2, "c": 1, "d": 1}
    assert chains(upstream, {"b": 10, "d": 2}) == {"a": 22, "b": 16, "c": 6, "d": 2}


@pytest.mark.parametrize("said", ["soon", "-1", "0", "true", ".inf", ".nan", "[3]"])
def test_a_usual_time_that_is_none_is_left_out_and_told(said: str, root: Path) -> None:
    (root / "dvc.yaml").write_text(CHAINS.replace("seconds: 25", f"seconds: {said}"))
    project = DvcProject(root)
    assert expected_seconds(project).keys() == {"alone", "short", "first"}
    [line] = complaints(project.stage("second"))
    assert "meta.dagster.seconds" in line and "such as 90" in line


@pytest.mark.costly
def test_a_failure_says_why_starts_nothing_after_it_and_leaves_the_earlier_result(root: Path) -> None:
    before = (root / "work/model").read_text()
    toy.edit(root, "params.yaml", "amount: 2", "amount: -2000")
    summary = run(root)
    [failed] = summary.failed
    assert (failed.stage, failed.error) == ("train", "train: the total is negative")
    assert summary.not_started == ["evaluate"]
    assert (root / "work/model").read_text() == before
    assert (root / "metrics/train.json").exists()


@pytest.mark.costly
def test_a_failure_elsewhere_does_not_stop_the_rest_when_asked(root: Path) -> None:
    toy.edit(root, "add.py", "side = sys.argv[1]", "side = sys.argv[1]; assert side == 'right', 'left is broken'")
    summary = run(root, "left", "right", jobs=1, keep_going=True)
    assert outcomes(summary) == {"left": "failed", "right": "executed"}
    assert "left is broken" in summary.results["left"].error


@pytest.mark.costly
def test_a_second_start_is_refused_at_once_naming_pid_and_since(root: Path) -> None:
    toy.edit(root, "params.yaml", "steps: 0", "steps: 600")
    first = Repro(DvcProject(root), "train", grace=3)
    thread = threading.Thread(target=first.result)
    thread.start()
    wait_for(lambda: (root / ".work/step").exists())
    second = Repro(DvcProject(root), "train").result()
    assert second.outcome == "busy"
    assert "pid " in second.error and " since 20" in second.error
    assert thread.is_alive()  # told while the first still runs
    wait_for(lambda: "step" in str(running(DvcProject(root))["train"]["line"]))  # noted once a second
    first.stop()
    thread.join(60)
    assert running(DvcProject(root)) == {}


@pytest.mark.costly
def test_a_stopped_stage_leaves_no_process_no_lock_and_resumes(root: Path) -> None:
    toy.edit(root, "params.yaml", "steps: 0", "steps: 40")
    process = Repro(DvcProject(root), "train", grace=3)
    lines: list[str] = []
    results = []
    thread = threading.Thread(target=lambda: results.append(process.result(lines.append)))
    thread.start()
    wait_for(lambda: (root / ".work/step").exists() and int((root / ".work/step").read_text() or 0) >= 5)
    below = descendants(process.pid)
    process.stop()
    thread.join(60)
    assert results[0].outcome == "stopped"
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)
    assert (root / ".dvc/tmp/rwlock").read_text() in ("{}", '{"read": {}, "write": {}}', '{"write": {}, "read": {}}')
    after: list[str] = []
    assert Repro(DvcProject(root), "train").result(after.append).outcome == "executed"
    assert "step 1 of 40" not in after
    assert not stale(DvcProject(root))


@pytest.mark.slow
def test_a_stage_that_ends_while_another_commits_is_recorded(root: Path) -> None:
    toy.edit(
        root,
        "add.py",
        "print(",
        'Path(f"work/{side}").write_bytes(b"x" * 150_000_000) if side == "left" else None\nprint(',
    )
    summary = run(root, "left", "right")
    assert outcomes(summary) == {"left": "executed", "right": "executed"}
    assert {"left", "right"}.isdisjoint(stale(DvcProject(root)))


def wait_for(condition, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            pytest.fail("waited in vain")
        time.sleep(0.05)
