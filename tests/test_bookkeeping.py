"""What is written beside the work never ends it: a note, picture, record, line or row for wandb is one warning."""

from __future__ import annotations

import ast
import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dagster_dvc.project import DvcProject
from dagster_dvc.repro import record_time, recorded_seconds
from pipelines import drawing, recording
from pipelines.data import validation_clips
from pipelines.drawing import drawn, new_figure
from pipelines.params import Wandb
from pipelines.progress import Progress, complain
from pipelines.record import Experiment
from pipelines.stage import StageError
from pipelines.training.tracking import WandbRun
from tests.dagster_dvc import toy as project
from tests.training.toy import params, run


def warnings_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if "warning" in line.lower()]


class Gone(io.StringIO):
    """A terminal that has gone away."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_line_that_nobody_can_read_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Progress("train")
    for terminal in (Gone(), closed()):
        monkeypatch.setattr(sys, "stdout", terminal)
        told.say("a line")
        told.report(1, 1)


def test_what_a_file_is_called_does_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2J\x9b1m\r\x07ö.mp4"
    Progress("train").say(f"reads {name}")
    complain("train", f"{name}: is damaged\nmend it")
    said = capsys.readouterr()
    assert said.out == "train: reads a\\x1b[2J\\x9b1m\\r\\x07ö.mp4\n"
    assert said.err == "train: a\\x1b[2J\\x9b1m\\r\\x07ö.mp4: is damaged\nmend it\n"


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


def test_a_time_that_cannot_be_noted_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(recording.TIMED_ABOVE, raising=False)
    Path(".work").write_text("a file lies here")
    recording.note_time("train", 1.5)
    assert len(warnings_in(capsys.readouterr().out)) == 1


@pytest.mark.costly
@pytest.mark.parametrize("held", ["[]", '{"train": 3, "other": [1.0]}', "nonsense", '{"train": nul'])
def test_a_note_of_times_that_is_none_is_written_anew(
    held: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(recording.TIMED_ABOVE, raising=False)
    recording.TIMES.parent.mkdir(exist_ok=True)
    recording.TIMES.write_text(held)
    assert "train" not in recorded_seconds(DvcProject(tmp_path))
    recording.note_time("train", 1.5)
    assert json.loads(recording.TIMES.read_text())["train"] == [1.5]
    recording.TIMES.write_text(held)
    record_time(DvcProject(tmp_path), "train", 2.5)
    assert recorded_seconds(DvcProject(tmp_path))["train"] == 2.5


def test_a_picture_that_cannot_be_written_is_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "curve.png").mkdir()
    figure = new_figure()
    figure.savefig(tmp_path / "curve.png")
    told = warnings_in(capsys.readouterr().out)
    assert len(told) == 1 and "curve.png is not written (Is a directory)" in told[0]
    figure.savefig(tmp_path / "other.png")
    assert (tmp_path / "other.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("error", [ValueError("NaN or Inf\nmore"), ZeroDivisionError(), KeyError("x"), MemoryError()])
def test_whatever_goes_wrong_in_a_drawing_is_one_warning(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @drawn
    def draw(path: str) -> None:
        raise error

    with pytest.raises(type(error)):
        draw("x.png")  # where a test looks
    monkeypatch.setattr(drawing, "TOLERATED", (Exception,))
    draw("x.png")
    [told] = warnings_in(capsys.readouterr().out)
    assert type(error).__name__ in told and "draw" in told


def test_data_that_a_drawing_cannot_read_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    @drawn
    def draw() -> None:
        raise StageError("clip 7 is damaged")

    monkeypatch.setattr(drawing, "TOLERATED", (Exception,))
    with pytest.raises(StageError, match="clip 7"):
        draw()


@pytest.mark.costly
def test_every_function_that_draws_for_a_stage_is_tolerant() -> None:
    """All that make a figure and return nothing; what `reel generate` and `compare` are asked for is no bookkeeping."""
    asked = {"generation/contact_sheet.py", "representation/comparison.py"}
    left = []
    for file in sorted(Path(drawing.__file__).parent.rglob("*.py")):
        name = file.relative_to(Path(drawing.__file__).parent).as_posix()
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if (
                isinstance(node, ast.FunctionDef)
                and re.match("draw(_|$)|contact_sheet$", node.name)
                and name not in asked
            ):
                returns_none = isinstance(node.returns, ast.Constant) and node.returns.value is None
                if returns_none and "drawn" not in {ast.unparse(one) for one in node.decorator_list}:
                    left.append(f"{name}: {node.name}")
    assert left == []


def test_clips_of_a_validation_that_cannot_be_written_are_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shown").write_text("a file lies here")
    clips = [np.zeros((5, 16, 16, 3), np.uint8)]
    path = validation_clips.write(tmp_path / "shown", 3, clips, ["a"], 8.0)
    assert not path.is_file() and len(warnings_in(capsys.readouterr().out)) == 1


def test_a_record_that_cannot_be_written_is_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").write_text("a file lies here")
    record = Experiment(tmp_path / "runs/run.json")
    record.begin({"stage": "train"})
    record.put(model={})
    record.end("finished")
    assert len(warnings_in(capsys.readouterr().out)) == 1


def test_a_training_ends_well_whose_curves_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plots/toy/training.csv").mkdir(parents=True)
    run(tmp_path, params(steps=3))
    assert len(warnings_in(capsys.readouterr().out)) == 1
    assert json.loads((tmp_path / "out/checkpoint.json").read_text())["step"] == 3


class Broken:
    """A wandb that fails at one of its calls."""

    step = 0

    def __init__(self, at: str) -> None:
        self.at = at

    def __getattr__(self, name: str) -> Any:
        def call(*_: object, **__: object) -> Any:
            if name == self.at:
                raise ConnectionError("the server is gone")
            return self

        return call


@pytest.mark.parametrize("at", ["init", "log", "finish", "Video"])
def test_an_error_of_wandb_is_one_warning(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Broken(at)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=broken.init, Video=broken.Video, Settings=dict))
    tracked = WandbRun(Wandb(project="p", mode="offline"), "train", "id", {}, tmp_path / "wandb", [{"step": 1}])
    tracked.log({"step": 2, "loss/net": 1.0})
    tracked.clip("clip", tmp_path / "x.mp4", 2)
    tracked.close()
    assert len(warnings_in(capsys.readouterr().out)) == 1
