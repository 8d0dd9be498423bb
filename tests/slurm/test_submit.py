"""A stage is handed over once: what is noted before, and how an earlier attempt is found.

Slurm's commands are stand-ins that answer from files; the real ones are in `make cluster-test`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from pipelines.slurm import attempt, submit
from pipelines.slurm.queue import Unanswered
from pipelines.slurm.script import job_name
from pipelines.slurm.target import Resources, Slurm, Target
from pipelines.stage import StageError

STAND_INS = {
    "squeue": "test ! -e down || { echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1; }\n"
    "cat queue",
    "scontrol": "cat job-$4 2>/dev/null || { echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1; }",
    "sacct": "echo 'Slurm accounting storage is disabled' >&2; exit 1",
    "sbatch": "cp .work/train/slurm/attempt.json noted; cp $2 submitted; env > variables\n"
    "test ! -e full || { echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1; }; echo '7;cluster'",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which Slurm's commands answer from files."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, text in STAND_INS.items():
        (commands / name).write_text(f"#!/bin/sh\ncd {tmp_path}\n{text}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "queue").write_text("")
    return tmp_path


def work(key: str = "0123456789abcdef") -> submit.Work:
    target = Target(Slurm(), Resources(nodes=2))
    environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "1", "DAGSTER_PIPES_CONTEXT": "x", "REEL_CODE": "c"}
    return submit.Work("train", target, ["m", "f", "--out", "out"], environment, key, [Path("out")])


def handed_over(one: submit.Work) -> attempt.Attempt:
    with Path("lock").open("w") as lock:
        return submit.submit(one, lock.fileno())


def queued(number: str, token: str, key: str, state: str = "RUNNING") -> None:
    """Slurm knows this job of the project."""
    comment = f"reel:{attempt.project_mark()}:train:{key}"
    name = job_name("train", token)
    Path("queue").write_text(f"{number}|{state}|None|n1|2026-11-28T01:45:21|{name}|{comment}\n")
    Path(f"job-{number}").write_text(
        f"JobId={number} JobName={name} JobState={state} Reason=None NodeList=n1 Comment={comment}\n"
    )


def test_the_attempt_is_on_disk_before_slurm_hears_of_it_and_its_number_afterwards(project: Path) -> None:
    made = handed_over(work())
    before = json.loads(Path("noted").read_text())
    assert before["job"] is None and made.job == "7" and attempt.noted("train") == made
    assert f"--job-name={made.name}" in Path("submitted").read_text() and before["token"] in made.name
    told = Path("variables").read_text()
    assert "REEL_CODE=c" in told and "SLURM_JOB_ID" not in told and "DAGSTER_PIPES" not in told
    assert sys.executable in Path("submitted").read_text()


def test_no_file_of_a_submission_holds_what_the_environment_hands_on(project: Path) -> None:
    one = work()
    one.environment["HF_TOKEN"] = "planted"
    handed_over(one)
    holding = [path.name for path in project.rglob("*") if path.is_file() and "planted" in path.read_text()]
    assert holding == ["variables"]  # what sbatch itself was given; the script and the notes name no value


def test_a_job_that_slurm_refuses_leaves_no_attempt_and_is_told_in_slurms_words(project: Path) -> None:
    Path("full").touch()
    with pytest.raises(StageError, match="QOSMaxSubmitJobPerUserLimit"):
        handed_over(work())
    assert attempt.noted("train") is None


def test_a_launcher_that_died_before_it_heard_the_number_is_followed_by_one_that_finds_the_job(project: Path) -> None:
    lost = attempt.new("train", work().key)
    attempt.note(lost)
    assert submit.taken_up(work()) is None  # the queue answers, and has no such job: it was never submitted
    attempt.note(lost)
    queued("9", lost.token, work().key)
    found = submit.taken_up(work())
    assert found is not None and found.job == "9" and attempt.noted("train") == found
    assert not Path("submitted").exists()


def test_a_job_of_this_project_is_found_without_any_note(project: Path) -> None:
    queued("11", "0a0b", work().key, "PENDING")
    assert work().is_begun()
    found = submit.taken_up(work())
    assert found is not None and found.job == "11"
    Path("queue").write_text(Path("queue").read_text().replace(attempt.project_mark(), "another00000"))
    attempt.forget("train")
    assert submit.taken_up(work()) is None and not work().is_begun()


def test_a_job_that_computes_something_else_is_neither_taken_up_nor_doubled(project: Path) -> None:
    queued("12", "0a0b", "fedcba9876543210")
    with pytest.raises(StageError, match=r"other parameters, code or data.*scancel 12"):
        submit.taken_up(work())


def test_a_queue_that_does_not_answer_is_not_an_empty_one(project: Path) -> None:
    attempt.note(attempt.new("train", work().key))
    Path("down").touch()
    with pytest.raises(Unanswered, match="Unable to contact slurm controller"):
        submit.taken_up(work())
    assert attempt.noted("train") is not None


@pytest.mark.parametrize("is_there", [True, False])
def test_a_job_that_ended_well_meanwhile_counts_where_its_outputs_are_there(project: Path, is_there: bool) -> None:
    made = handed_over(work())
    attempt.ended_file("train", "7").write_text(json.dumps({"code": 0, "why": "", "restarts": 0}))
    if is_there:
        Path("out").mkdir()
    found = submit.taken_up(work())
    assert (found == made) if is_there else (found is None and attempt.noted("train") is None)


def test_a_start_on_this_machine_is_refused_beside_a_job_that_runs(project: Path) -> None:
    made = handed_over(work())
    queued("7", made.token, made.key)
    with pytest.raises(StageError, match=r"job 7 is running on n1 and writes the same outputs.*scancel 7"):
        submit.refuse_live("train")
    queued("7", made.token, made.key, "COMPLETED")
    submit.refuse_live("train")
    assert attempt.noted("train") is None


def test_a_note_that_cannot_be_read_stops_everything(project: Path) -> None:
    attempt.note(attempt.new("train", "k"))
    (attempt.folder("train") / attempt.NOTE).write_text('{"stage": "tr')
    with pytest.raises(StageError, match="whether a job runs is not known"):
        attempt.noted("train")


def test_what_a_job_took_is_written_when_it_is_over_for_slurm_too(project: Path) -> None:
    """The job says itself that it is done, before the accounting has it."""
    file = Path(".work/train/a/record.json")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"runtime": {"job": "7", "seconds": 1.0}}))
    row = "7|{state}|0:0|3|00:02|{peak}|1|2|cpu=2|n1"
    for name, text in (
        ("first", row.format(state="RUNNING", peak="")),
        ("then", row.format(state="COMPLETED", peak="2048K")),
    ):
        Path(name).write_text(text + "\n")
    Path("commands/sacct").write_text(f"#!/bin/sh\ncd {project}\ncat first; cp then first\n")
    submit.account("train", "7")
    told = json.loads(file.read_text())["runtime"]
    assert told["seconds"] == 1.0 and told["slurm"]["state"] == "COMPLETED" and told["slurm"]["from"] == "sacct"
    assert told["slurm"]["peak_gib_of_a_process"] == pytest.approx(2 / 1024, abs=1e-3)
