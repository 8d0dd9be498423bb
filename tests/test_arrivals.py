"""What the launcher hears and sees around a stage: data that moves while it runs, force, other checkouts, leftovers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dagster_dvc.hashing import Hashes
from dagster_dvc.project import DvcProject
from dagster_dvc.repro import Repro
from pipelines import arrivals
from pipelines.litter import LITTER, is_litter, walk
from pipelines.processes import asks_for_force
from tests.test_launch import ROOT, dvc, environment, project, start, wait_for  # noqa: F401 (a fixture)

READS = '''
"""A stage that says which files it found; it ends when `go` is there."""
import os
import time
from pathlib import Path
from pipelines import stage
from pipelines.toy.params import ToyParams

CODE = "here"


def make(params: ToyParams, out: Path, metrics: Path) -> None:
    found = sorted(path.name for path in Path("videos").iterdir())
    Path("passes").open("a").write("x")
    while not Path("go").exists():
        time.sleep(0.02)
    if params.fails:
        Path("videos", f"{time.time_ns()}.mp4").touch()
    with stage.whole_folder(out) as folder:
        (folder / "value.txt").write_text(" ".join(found))
        (folder / "anew.txt").write_text(str(stage.current().anew))
        (folder / "code.txt").write_text(CODE)
    stage.write_metrics(metrics, {"value": len(found)})
'''


@pytest.fixture
def footage(project: Path) -> Path:  # noqa: F811
    """The launcher's toy project, with a stage that reads a folder which no stage makes."""
    (project / "pipelines/toy/toy.py").write_text(READS)
    (project / "videos").mkdir()
    (project / "videos/a.mp4").touch()
    graph = yaml.safe_load((project / "dvc.yaml").read_text())
    graph["stages"]["toy"].setdefault("deps", []).append("videos")
    (project / "dvc.yaml").write_text(yaml.safe_dump(graph))
    shutil.copy(ROOT / ".dvcignore", project / ".dvcignore")
    (project / "go").touch()
    return project


def made(project: Path, name: str = "value") -> str:  # noqa: F811
    return (project / f"data/toy/{name}.txt").read_text()


def test_a_file_that_arrives_while_the_stage_runs_is_read_and_not_only_recorded(footage: Path) -> None:
    (footage / "go").unlink()
    running = start(footage, sys.executable, "-m", "dvc", "repro")
    wait_for(footage / "passes")
    (footage / "videos/b.mp4").touch()
    (footage / "videos/.DS_Store").write_text("litter")
    (footage / "go").touch()
    said, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    assert "toy: videos/b.mp4 arrived while it ran; it runs once more" in said
    assert made(footage) == ".DS_Store a.mp4 b.mp4" and (footage / "passes").read_text() == "xx"
    assert "up to date" in dvc(footage, "repro").stdout


def test_litter_that_arrives_is_no_data(footage: Path) -> None:
    (footage / "go").unlink()
    running = start(footage, sys.executable, "-m", "dvc", "repro")
    wait_for(footage / "passes")
    for name in ("._b.mp4", "Thumbs.db", "desktop.ini"):
        (footage / "videos" / name).touch()
    (footage / "videos/@eaDir").mkdir()
    (footage / "videos/@eaDir/a.mp4").touch()
    (footage / "go").touch()
    running.communicate(timeout=60)
    assert (footage / "passes").read_text() == "x"
    assert "up to date" in dvc(footage, "repro").stdout


def test_a_folder_that_never_rests_fails_the_stage_and_the_earlier_result_stays(footage: Path) -> None:
    assert dvc(footage, "repro").returncode == 0
    lock = (footage / "dvc.lock").read_text()
    values = yaml.safe_load((footage / "params.yaml").read_text())
    values["toy"] |= {"fails": True}
    (footage / "params.yaml").write_text(yaml.safe_dump(values))
    failed = dvc(footage, "repro")
    assert failed.returncode != 0 and (footage / "passes").read_text() == "x" * (1 + arrivals.PASSES)
    assert ".mp4 arrived while the stage was running, and DVC would record it as read." in failed.stderr
    assert "run it again when nothing more arrives" in failed.stderr and "Traceback" not in failed.stderr
    assert (footage / "dvc.lock").read_text() == lock and made(footage) == "a.mp4"
    values["toy"] |= {"fails": False}
    (footage / "params.yaml").write_text(yaml.safe_dump(values))
    assert dvc(footage, "repro").returncode == 0
    assert len(made(footage).split()) == 1 + arrivals.PASSES


def test_a_file_that_changes_or_goes_is_news_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abcde":
        (tmp_path / name).write_text("1")
    before = arrivals.listing([Path()])
    assert arrivals.news(before, arrivals.listing([Path()])) == ""
    (tmp_path / "a").write_text("12")
    os.utime(tmp_path / "b", (1, 1))
    (tmp_path / "c").unlink()
    for name in "fghij":
        (tmp_path / name).write_text("1")
    told = arrivals.news(before, arrivals.listing([Path()]))
    assert told == "f, g, h and 2 more arrived, a, b changed, c went"


def test_sources_are_data_that_no_stage_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code/__init__.py").touch()
    first = {"outs": ["data/clips", {"data/more": {"cache": False}}], "metrics": ["metrics/a.json"]}
    deps = ["videos", "data/clips/a.mp4", "data", "metrics/a.json", "code", "code/page.css", "make.py", "s3://b/c"]
    deps += ["captions.csv", "data-of-mine"]
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"a": first, "b": {"deps": deps}}}))
    assert [str(path) for path in arrivals.sources("b")] == ["videos", "captions.csv", "data-of-mine"]
    assert arrivals.sources("a") == arrivals.sources("unknown") == []


@pytest.mark.parametrize(
    ("line", "forced"),
    [
        ("dvc repro -f", True),
        ("/venv/bin/python -P -m dvc --wait-for-lock repro --single-item --force train", True),
        ("python /venv/bin/dvc repro -sf train", True),
        ("dvc exp run --force -S train.steps=3", True),
        ("dvc repro train", False),
        ("dvc repro --force-downstream train", False),
        ("dvc repro -s -k train", False),
        ("dvc checkout --force train", False),
        ("dvc exp run -S a=f -n -x", False),
        ("rm -f dvc.lock", False),
        ("pytest tests/dagster_dvc -f", False),
    ],
)
def test_force_is_read_from_dvcs_command_line(line: str, forced: bool) -> None:
    assert asks_for_force(line.split()) == forced


def test_a_stage_hears_that_it_is_forced_by_dvc_and_by_the_runner(footage: Path) -> None:
    assert dvc(footage, "repro").returncode == 0 and made(footage, "anew") == "False"
    assert dvc(footage, "repro", "-f").returncode == 0 and made(footage, "anew") == "True"
    (footage / "videos/b.mp4").touch()
    assert dvc(footage, "repro").returncode == 0 and made(footage, "anew") == "False"
    forced = Repro(DvcProject(footage), "toy", options=("--force",), env=environment()).result()  # reel and Dagster
    assert forced.succeeded and made(footage, "anew") == "True"


@pytest.mark.parametrize("variables", [{}, {"PYTHONSAFEPATH": "1"}, {"PYTHONPATH": "elsewhere"}], ids=str)
def test_in_a_second_clone_its_own_code_runs(footage: Path, variables: dict[str, str], tmp_path: Path) -> None:
    clone = Path(shutil.copytree(footage, tmp_path / "clone"))
    code = clone / "pipelines/toy/toy.py"
    code.write_text(code.read_text().replace('"here"', '"in the clone"'))
    elsewhere = {name: str(footage) if value == "elsewhere" else value for name, value in variables.items()}
    command = [sys.executable, "-m", "dvc", "repro"]
    env = {**environment(), **elsewhere}
    # -P is for dvc alone here: the interpreter of the stage hears PYTHONSAFEPATH
    done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert made(clone, "code") == "in the clone" and not (footage / "data").exists()


def test_what_a_killed_run_left_half_written_goes_when_the_stage_starts(footage: Path) -> None:
    left = [footage / "data/.toy.partial-4194000", footage / "metrics/.toy.json.partial-4194000"]
    left.append(footage / ".work/toy/abc/.state-000000004.partial-4194000")
    others = [footage / "data/.other.partial-4194000", footage / "data/.toy.hidden"]
    for path in [*left, *others]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1024)
    done = dvc(footage, "repro")
    assert done.returncode == 0 and "toy: removed what a killed run had half written (3.0 KiB)" in done.stdout
    assert not any(path.exists() for path in left) and all(path.exists() for path in others)


NAMES = {
    "._*": "._a.mp4",
    "[Tt][Hh][Uu][Mm][Bb][Ss].[Dd][Bb]": "Thumbs.db",
    "ehthumbs*.db": "ehthumbs_vista.db",
    "[Dd][Ee][Ss][Kk][Tt][Oo][Pp].[Ii][Nn][Ii]": "Desktop.ini",
    "$[Rr][Ee][Cc][Yy][Cc][Ll][Ee].[Bb][Ii][Nn]": "$Recycle.Bin",
    "~$*": "~$captions.docx",
    "@[Ee][Aa][Dd][Ii][Rr]": "@eaDir",
    ".goutputstream-*": ".goutputstream-AB12C3",
    ".syncthing.*": ".syncthing.a.mp4.tmp",
    ".Trash-*": ".Trash-1000",
    ".nfs*": ".nfs0000000001",
    ".fuse_hidden*": ".fuse_hidden01",
    ".~lock.*#": ".~lock.captions.csv#",
    ".*.partial-*": ".0123456789abcdef.partial-0123456789abcdef",
}


def test_dvc_its_twin_and_our_readers_ignore_the_same_litter(footage: Path) -> None:
    litter = [NAMES.get(pattern, pattern) for pattern in LITTER]
    assert all(map(is_litter, litter)) and not any(map(is_litter, ("a.mp4", "desktop.mp4", "db", "_a.mp4", "eaDir")))
    assert dvc(footage, "repro").returncode == 0
    before = Hashes(footage, footage / "kept.json").of("videos")
    for name in litter:
        (footage / "videos" / name).mkdir()
        (footage / "videos" / name / "b.mp4").touch()
        (footage / "videos/part").mkdir(exist_ok=True)
        (footage / "videos/part" / name).write_text("x")
    assert "up to date" in dvc(footage, "repro").stdout
    assert Hashes(footage, footage / "kept.json").of("videos") == before
    assert [name for _, _, names in walk(footage / "videos") for name in names] == ["a.mp4"]
