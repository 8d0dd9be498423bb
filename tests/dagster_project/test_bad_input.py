"""Every `reel` command answers bad input in one or two lines that name it, with an exit code that is not 0."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dagster_project import cli, tools
from tests.dagster_dvc import toy

WRONG_FILES = ["nowhere", "empty", "folder", "loop", "text.mp4", "text.png", "broken", "secret/file", "x" * 300]
"""Not there, empty, a folder, a link to itself, of another type, damaged, in a folder nobody enters, no file's name."""
CALLS: dict[str, Callable[[str], list[list[str]]]] = {
    "lineage": lambda path: [[path]],
    "diff": lambda path: [[path, path]],
    "audit": lambda path: [[path], [path, "--key", path]],
    "reproduce": lambda path: [[path]],
    "verify": lambda path: [[path]],
    "generate": lambda path: [["--checkpoint", path, "--prompt", "a", "--out", "a.mp4"]],
    "refine": lambda path: [["--checkpoint", "broken", flag, path, "--out", "a.mp4"] for flag in ("--video",)],
    "play": lambda path: [["--checkpoint", path, "--image", path, "--actions", "W*3", "--out", "a.mp4"]],
    "profile": lambda path: [[path]],
    "export": lambda path: [["--checkpoint", path, "--out", "made"]],
    "release": lambda path: [[path, "--out", "made"]],
    "import-fluxflow": lambda path: [[path]],
    "probe": lambda path: [[path]],
    "fit": lambda path: [[path]],
    "use": lambda path: [[path]],
    "fetch": lambda path: [["nowhere://bucket/x", path]],
    "new": lambda path: [[path, path], ["generation", path]],
}
WORDS = {
    "audit": [["folder", "--clip"], []],
    "reproduce": [["folder", "--within", "nan"], ["folder", "--within", "-1"]],
    "generate": [["--checkpoint"], ["--checkpoint", "broken", "--prompt", "a", "--out", "a.mp4", "--guidance", "nan"]],
    "refine": [["--checkpoint", "broken", "--keyframes", "text.png", "--out", "a.mp4"]],
    "log": [["nonsense"], ["--decide", "nowhere", "maybe"], ["--decide", "nowhere", "keep"]],
    "gc": [["nonsense"]],
    "jobs": [["nonsense"]],
    "probe": [["broken", "--steps", "nan"]],
    "new": [["generation", "1x"], ["generation", "../x"], ["generation"]],
}
"""A value that is missing, no number, out of range, of another form, or too many words."""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is no project, with a file of every wrong kind."""
    for name, text in (("empty", ""), ("text.mp4", "no film"), ("text.png", "no picture"), ("secret/file", "x")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("checkpoint.json", "lineage.json", "generator.json", "manifest.json"):
        (tmp_path / "broken").mkdir(exist_ok=True)
        (tmp_path / "broken" / name).write_bytes(b"{\xff\0")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "secret").chmod(0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(command: Callable[[], int], capsys: pytest.CaptureFixture[str], most: int) -> str:
    """What is said of bad input: few lines, no traceback, an exit code that says so."""
    try:
        code = command()
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    found = capsys.readouterr()
    said = "\n".join(line for line in (found.err + found.out).splitlines() if not line.startswith((" ", "usage:")))
    assert code not in (0, None), said
    assert said.strip() and len(said.splitlines()) <= most and "Traceback" not in said, said
    return said


@pytest.mark.parametrize("name", sorted({*CALLS, *WORDS}))
def test_a_command_on_paths_and_words_of_every_wrong_kind(
    name: str, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module((tools.TOLD | tools.TOOLS)[name][0]).main
    calls = [words for path in WRONG_FILES for words in CALLS.get(name, lambda _: [])(path)]
    for words in [*calls, *WORDS.get(name, [])]:
        refused(lambda words=words: main(words), capsys, most=6 if name == "audit" else 2)


def test_every_command_of_a_room_is_tried() -> None:
    assert {*CALLS, *WORDS} == {*tools.TOLD, *tools.TOOLS}


IN_A_PROJECT = {
    "run": [[], ["nowhere"], ["group:nowhere"], ["train", "--jobs", "0"], ["train", "--jobs", "nan"], ["--jobs"]],
    "plan": [["nowhere"], ["--jobs", "x"]],
    "status": [["more"]],
    "check": [["more"]],
    "demo": [["--jobs", "-1"]],
    "lineage": [["nowhere"], []],
    "compare": [["nowhere", "elsewhere"], []],
    "ablate": [["train.nowhere=1,2"], ["nowhere.x=1,2"], ["train.steps"], ["train.steps=1,2", "--seeds", "0"], []],
    "accept": [["nowhere"], ["prepare"], []],
    "keep": [["nowhere"]],
    "promote": [["nowhere"]],
    "ui": [["--port", "nan"], ["--port", "0"]],
    "nonsense": [[]],
}


@pytest.mark.costly
def test_a_projects_commands_refuse_what_they_cannot_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REEL_PROJECT", str(toy.make(tmp_path)))
    for name in ("DAGSTER_HOME", "DAGSTER_DISABLE_TELEMETRY", "REEL_GRACE_SECONDS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, calls in IN_A_PROJECT.items():
        for words in calls:
            refused(lambda words=words, name=name: cli.main([name, *words]), capsys, most=3)


def test_outside_a_project_that_is_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REEL_PROJECT", str(tmp_path))
    assert "not a DVC project" in refused(lambda: cli.main(["status"]), capsys, most=2)


def test_outside_a_project_what_lineage_is_asked_of_is_a_path(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "REEL_PROJECT"}
    path = os.pathsep.join(filter(None, [str(Path(cli.__file__).parents[1]), environment.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "dagster_project.cli", "lineage", "nowhere.mp4"],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (3, "lineage: nowhere.mp4: no such file or folder.\n")
