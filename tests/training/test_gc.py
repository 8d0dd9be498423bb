"""`reel gc`: what goes, what stays and why, and that nothing goes without a word of the person."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from pipelines import params as parameters
from pipelines.ownership import owned
from pipelines.params import ParamsError
from pipelines.training import gc
from tests.training.test_continuing import stop, train
from tests.training.toy import ToyParams, params

ROOT = Path(__file__).parents[2]
GONE = 4194000
"""A process id that nothing has."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one stage `out`, with its params.yaml."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"out": {"cmd": "x", "outs": ["data/out"]}}}))
    write(params(steps=10))
    (tmp_path / ".work/out").mkdir(parents=True)
    (tmp_path / ".work/out/owner.json").write_text("{}")
    return tmp_path


def write(section: ToyParams) -> None:
    Path("params.yaml").write_text(yaml.safe_dump({"out": section.model_dump(mode="json")}))


def git(*words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], check=True, capture_output=True)


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert gc.main(words) == 0
    return [line.strip() for line in capsys.readouterr().out.splitlines()]


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[list[str], list[str]]:
    """Why something goes, and why something stays."""
    found = lines(capsys, *words)
    at = found.index("kept") if "kept" in found else len(found)
    return [line.split(": ", 1)[1] for line in found[1:at] if ": " in line], [
        line.split(": ", 1)[1] for line in found[at + 1 : -1] if ": " in line
    ]


def states() -> int:
    return len(list(Path(".work").glob("*/*/state-*")))


def test_finished_states_go_and_unfinished_ones_of_these_params_stay(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(project, params(steps=6, max_grad_norm=0.7))
    stop(project, params(steps=10), 3)
    capsys.readouterr()
    expected = (
        ["finished, step 6 of 6: more steps would then be trained from nothing"],
        ["step 3 of 10 with the params of here; the next run goes on from it"],
    )
    assert told(capsys) == expected and states() == 2
    assert told(capsys, "--yes") == expected and states() == 1
    assert len(list(Path(".work").glob("*/*/record.json"))) == 2  # `reel log` still knows of both
    assert train(project, params(steps=10)) == [3, 4, 5, 6, 7, 8, 9]


def test_states_of_params_that_nobody_has_go_unless_a_branch_has_them(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop(project, params(steps=10), 3)
    write(params(steps=10, max_grad_norm=0.5))
    capsys.readouterr()
    assert told(capsys)[0] == ["step 3 of 10, and no params.yaml here or in git has its values"]
    write(params(steps=10))
    git("init", "--quiet")
    git("add", "params.yaml")
    git("commit", "--quiet", "--message", "as it was")
    git("branch", "before")
    write(params(steps=10, max_grad_norm=0.5))
    git("commit", "--quiet", "--all", "--message", "clipped more")
    going, staying = told(capsys, "--yes")
    assert (going, staying) == ([], ["step 3 of 10 with the params of refs/heads/before; the next run goes on from it"])
    assert states() == 1


def test_what_other_code_left_unfinished_goes_only_when_asked(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop(project, params(steps=10), 3, code="a")
    stop(project, params(steps=10), 4, code="b")
    Path("code.json").write_text(json.dumps({"out": "b"}))
    capsys.readouterr()
    other = "step 3 of 10 by other code; only `reel run --continue out` goes on from it"
    own = "step 4 of 10 with the params of here; the next run goes on from it"
    going, staying = told(capsys)
    assert going == [] and sorted(staying) == sorted([other, own])
    assert told(capsys, "--other-code", "--yes") == ([other], [own]) and states() == 1


def test_half_written_outputs_of_processes_that_are_gone_go(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = [Path(f"data/.out.partial-{GONE}"), Path(f".work/out/shards/.a.partial-{GONE}")]
    kept = [Path(f"data/.out.partial-{os.getpid()}"), Path(f".work/out/.new.partial-{GONE}"), Path("data/.out.kept")]
    for path in [*old, *kept]:
        path.mkdir(parents=True)
        (path / "part").write_bytes(b"x" * 2048)
    for path in [*old, kept[0]]:
        os.utime(path, (1, 1))
    found = lines(capsys)
    assert found[-1] == "4.0 KiB in all; nothing is removed without --yes." and all(path.exists() for path in old)
    assert lines(capsys, "--yes")[-1] == "4.0 KiB freed."
    assert not any(path.exists() for path in old) and all(path.exists() for path in kept)
    assert lines(capsys)[-1].startswith("Nothing to free.")


def test_the_work_of_a_running_stage_is_not_touched(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(project, params(steps=6))
    capsys.readouterr()
    with owned("out", Path(".work/out")):
        going, [why] = told(capsys, "--yes")
        assert going == [] and f"is being written by process {os.getpid()} " in why
    assert states() == 1


def test_what_another_host_writes_is_not_touched(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = [Path(f"data/.out.partial-{GONE}"), Path(f".work/out/shards/.a.partial-{GONE}")]  # no process of here
    other = Path(f"data/.other.partial-{GONE}")
    for path in [*half, other]:
        path.mkdir(parents=True)
        os.utime(path, (1, 1))
    note, beats = Path(".work/out/owner.json"), iter(range(2, 1000))

    def beat(_seconds: float) -> None:  # while we look on
        note.write_text(json.dumps({"pid": GONE, "host": "far", "since": "2026", "beats": next(beats)}))

    beat(0)
    monkeypatch.setattr("pipelines.ownership.time.sleep", beat)
    going, staying = told(capsys, "--yes")
    assert going == ["half written by a process that is gone"] and not other.exists()
    assert len(staying) == 1 and f"is being written by process {GONE} on far since 2026" in staying[0]
    assert all(path.exists() for path in half) and json.loads(note.read_text())["host"] == "far"


def test_damaged_states_and_those_that_force_set_aside_go(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop(project, params(steps=10), 5)
    stop(project, params(steps=10), 6, anew=True)
    (sorted(Path(".work").glob("*/*/state-*"))[-1] / "state.json").write_text("{")
    stop(project, params(steps=10), 9)
    capsys.readouterr()
    going, staying = told(capsys, "--yes")
    assert {"damaged", "set aside by --force"} <= set(going) and len(staying) == 1


def test_a_params_file_that_cannot_be_read_is_one_line_and_removes_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(project, params(steps=6))
    Path("params.yaml").write_text("a: [")
    assert gc.main(["--yes"]) == 2
    assert capsys.readouterr().err.startswith("reel gc: params.yaml:") and states() == 1


def test_the_record_of_a_run_holds_what_params_yaml_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run records of its section is found again in params.yaml, for every stage of this project."""
    monkeypatch.chdir(ROOT)
    values = parameters.read_document()[0]
    for module, function, section in parameters.stage_commands().values():
        dumped = parameters.parse_section(parameters.section_class(module, function), section).model_dump(mode="json")
        assert gc.same(json.loads(json.dumps(dumped)), values[section]), section


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (1, 1.0, True),
        ({"a": [1, 2]}, {"a": (1.0, 2)}, True),
        (1e-4, "1e-4", True),
        ("adamw", "lion", False),
        (True, "true", False),
        ({"a": 1}, {"a": 1, "b": None}, True),
        ({"a": 1}, {"a": 1, "b": 0}, False),
        ([1], 1, False),
        (None, "x", False),
    ],
)
def test_values_are_one_however_yaml_wrote_them(left: object, right: object, expected: bool) -> None:
    assert gc.same(left, right) == gc.same(right, left) == expected


def test_an_unreadable_params_file_is_the_readers_own_error(project: Path) -> None:
    Path("params.yaml").unlink()
    with pytest.raises(ParamsError):
        gc.collect(False, False)
