"""`reel` on the toy project."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dagster_dvc.supervise import descendants
from dagster_project import cli
from tests.dagster_dvc import toy
from tests.dagster_dvc.test_repro import wait_for

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.make(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import shutil

    root = Path(shutil.copytree(template, tmp_path / "project"))
    monkeypatch.setenv("REEL_PROJECT", str(root))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    for name in ("DAGSTER_HOME", "DAGSTER_DISABLE_TELEMETRY", "REEL_GRACE_SECONDS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)
    return root


def test_a_first_day(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check"]) == 0
    assert cli.main(["plan"]) == 0
    assert "5 stages, 5 of unknown length" in capsys.readouterr().out
    assert cli.main(["demo"]) == 0
    said = capsys.readouterr().out
    assert "prepare  | doubled 3" in said
    assert "\r" not in said
    row = next(line for line in said.splitlines() if line.startswith("train  ") and "work/model" in line)
    assert "done" in row and "[total_is_large pass]" in row and "psnr/held_out 29.5" in row
    assert "Next: reel ui" in said
    assert cli.main(["status"]) == 0
    assert "stale" not in capsys.readouterr().out
    toy.edit(project, "params.yaml", "amount: 2", "amount: 3")
    assert cli.main(["plan", "right"]) == 0
    assert "right.amount 2 -> 3" in capsys.readouterr().out
    assert cli.main(["lineage", "train"]) == 0
    assert cli.main(["run", "train"]) == 0
    assert "left      reused" not in capsys.readouterr().out.replace("left     ", "left ")


def test_a_failure_is_on_top_with_the_way_on(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.edit(project, "params.yaml", "amount: 2", "amount: -2000")
    assert cli.main(["run", "--all"]) == 1
    said = capsys.readouterr().out
    summary = said[said.index("\n\n") :]
    assert summary.strip().startswith("train: FAILED after ")
    assert "  train: the total is negative" in summary
    assert "evaluate  not started" in summary
    assert "Then run again: reel run train" in summary


def test_mistakes_are_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "trian"]) == 1
    assert capsys.readouterr().err.strip() == "nothing in dvc.yaml is selected by 'trian'; did you mean train?"
    assert cli.main(["run"]) == 1
    assert "name a stage or say --all" in capsys.readouterr().err
    toy.edit(project, "dvc.yaml", "cmd: python evaluate.py", "command: python evaluate.py")
    assert cli.main(["check"]) == 1
    assert capsys.readouterr().err.startswith("dvc.yaml:")


def test_up_to_date_is_never_said_of_what_could_not_be_looked_at(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (project / "params.yaml").read_text()
    assert cli.main(["plan"]) == 0  # this graph is shown while none can be read
    capsys.readouterr()
    (project / "params.yaml").write_text(good + "train: [\n")
    for words in (["plan"], ["status"], ["check"], ["run", "--all"]):
        assert cli.main(words) == 1
        said = capsys.readouterr()
        assert said.err.startswith("params.yaml:") and "up to date" not in said.out
    (project / "params.yaml").write_text(good)
    assert cli.main(["check"]) == 0
    (project / "dvc.yaml").write_text("stages: {}\n")
    capsys.readouterr()
    assert cli.main(["plan"]) == 0
    assert capsys.readouterr().out.startswith("dvc.yaml has no stages")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopping_reel_stops_everything_below(project: Path, number: signal.Signals) -> None:
    toy.edit(project, "params.yaml", "steps: 0", "steps: 600")
    command = [sys.executable, "-m", "dagster_project.cli", "run", "train"]
    process = subprocess.Popen(
        command,
        cwd=REPO,
        env=toy.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as a script's `reel run … &` gets it
    )
    try:
        wait_for(lambda: (project / ".work/step").exists(), seconds=90)
        below = descendants(process.pid)
        assert len(below) >= 3
        process.send_signal(number)
        began = time.monotonic()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), seconds=12)
        assert process.wait(10) in (130, -9)
        assert time.monotonic() - began < 10
    finally:
        process.kill()
        process.wait(10)
    assert int((project / ".work/step").read_text()) < 600


def test_what_another_host_runs_is_told_by_status_and_plan(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = project / ".work" / "prepare" / "owner.json"
    note.parent.mkdir(parents=True)
    owner = {"pid": 7, "host": "far", "user": "ana", "since": "2026-11-28 09:00:00+00:00", "beats": 3}
    note.write_text(json.dumps(owner))
    assert cli.main(["plan", "prepare"]) == 0
    told = "(pid 7): on far of ana; wait for it, or stop it there"
    assert f"prepare is running already {told}" in capsys.readouterr().out
    assert cli.main(["status"]) == 0
    [row] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("prepare ")]
    assert "running" in row and told in row


def test_a_command_of_a_room_gets_all_its_words() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "dagster_project.cli", "generate", "--help"],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("usage: reel generate") and "--checkpoint" in said.stdout


@pytest.mark.parametrize(
    ("source", "unwatched"),
    [
        ("folder: {path: videos}", None),
        ("folder: {path: videos/day1}", None),
        ("folder: {path: films}", "films"),
        ("recordings: {path: games}", "games"),
        ("tars: {urls: [a.tar, 'https://host/b.tar', 'c-{000..001}.tar']}", "a.tar"),
        ("rendered: {seed: 0}", None),
    ],
)
def test_footage_that_dvc_does_not_look_at_is_told_by_status_and_check(
    project: Path, capsys: pytest.CaptureFixture[str], source: str, unwatched: str | None
) -> None:
    stage = "raw_video: {cmd: echo, deps: [videos], params: [raw_video], outs: [clips]}"
    toy.edit(project, "dvc.yaml", "stages:\n", f"stages:\n  {stage}\n")
    with (project / "params.yaml").open("a") as stream:
        stream.write(f"\nraw_video: {{source: {{{source}}}}}\n")
    for command in ("status", "check"):
        cli.main([command])
        said = capsys.readouterr().out
        assert ("is not in deps" in said) == (unwatched is not None)
        assert unwatched is None or f"warn  dvc.yaml: raw_video: {unwatched} is not in deps" in said


def test_a_linked_folder_among_the_footage_is_told_because_dvc_does_not_see_it(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = "raw_video: {cmd: echo, deps: [videos], params: [raw_video], outs: [clips]}"
    toy.edit(project, "dvc.yaml", "stages:\n", f"stages:\n  {stage}\n")
    with (project / "params.yaml").open("a") as stream:
        stream.write("\nraw_video: {source: {folder: {path: videos}}}\n")
    (tmp_path / "disk").mkdir()
    (project / "videos/day1").mkdir(parents=True)
    cli.main(["check"])
    assert "linked" not in capsys.readouterr().out
    (project / "videos/day1/more").symlink_to(tmp_path / "disk")
    cli.main(["check"])
    said = capsys.readouterr().out
    assert "raw_video: videos/day1/more is a linked folder" in said and f"add `{tmp_path / 'disk'}` to deps" in said


def test_what_came_between_the_last_look_and_dvcs_own_is_told_by_status_and_check(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = "raw_video: {cmd: mkdir -p clips, deps: [videos], outs: [clips]}"
    toy.edit(project, "dvc.yaml", "stages:\n", f"stages:\n  {stage}\n")
    (project / "videos").mkdir()
    (project / "videos/a.mp4").write_text("a")
    (project / ".work/raw_video").mkdir(parents=True)
    read = project / ".work/raw_video/read.json"
    read.write_text(json.dumps({"videos/a.mp4": [1, 0]}))
    late = "warn  raw_video: videos/late.mp4 came as the stage ended and is recorded, but not read"
    for name, expected in (("a.mp4", False), ("late.mp4", True)):
        (project / "videos" / name).write_text("a")
        cli.main(["status"])
        assert late not in capsys.readouterr().out  # not recorded: stale, as DVC says itself
        toy.dvc(project, "repro", "raw_video")
        for command in ("status", "check"):
            cli.main([command])
            assert (late in capsys.readouterr().out) == expected
    read.write_text(json.dumps({"videos/a.mp4": [1, 0], "videos/late.mp4": [1, 0]}))
    cli.main(["status"])
    assert late not in capsys.readouterr().out


def test_a_check_that_found_nothing_is_made_again_when_anything_that_it_looks_at_is_another(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checker = project / "pipelines/entries.py"
    checker.parent.mkdir()
    (checker.parent / "__init__.py").touch()
    checker.write_text(
        "import pathlib, sys\nwith open('asked', 'a') as f: f.write('x')\nsys.exit(pathlib.Path('wrong').exists())\n"
    )

    def asked(status: int = 0) -> int:
        """How often the project's own module was asked by one more `reel check`."""
        before = len((project / "asked").read_text()) if (project / "asked").exists() else 0
        assert cli.main(["check"]) == status
        return len((project / "asked").read_text()) - before

    def settled() -> None:
        for path in (checker, checker.with_name("__init__.py"), project / "params.yaml", project / "dvc.yaml"):
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10_000_000_000))

    assert asked() == asked() == 1  # written just now: the same moment may hold another edit
    settled()
    assert [asked(), asked(), asked()] == [1, 0, 0]
    toy.edit(project, "params.yaml", "amount: 2", "amount: 3")
    assert [asked(), asked()] == [1, 1]
    settled()
    assert [asked(), asked()] == [1, 0]
    (project / "source/numbers.txt").rename(project / "source/moved.txt")
    assert asked() == 1  # a dependency that is gone
    (project / "source/moved.txt").rename(project / "source/numbers.txt")
    (project / "pipelines/more.py").write_text("")
    (project / "wrong").touch()
    assert [asked(1), asked(1)] == [1, 1]
    os.utime(project / "pipelines/more.py", (1e9, 1e9))
    assert [asked(1), asked(1)] == [1, 1]  # a complaint is not kept
