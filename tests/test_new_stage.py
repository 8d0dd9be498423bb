"""`reel new`: a stage that works as it is written, of which no other stage notices anything."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import new_stage
from pipelines.code.source import Source
from pipelines.code.stages import identity, stage_functions
from pipelines.commands import stage_entries
from pipelines.stage import StageError
from tests.generation.toy import write_latents

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this project's code, to be added to."""
    for name in ("pipelines", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "pictures"))
    (tmp_path / "tests").mkdir()
    for name in ("dvc.yaml", "params.yaml", "tests/lineage.txt", "tests/test_project.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def identities(project: Path) -> dict[str, str]:
    entries, source = stage_entries(project / "dvc.yaml"), Source(project)
    names = [name for name in entries if name != "code"]
    return {name: identity(stage_functions(name, entries[name]), source, with_arguments=True).value for name in names}


@pytest.mark.costly
@pytest.mark.parametrize("room", new_stage.ROOMS)
def test_a_new_stage_is_no_other_stages_business(project: Path, room: str) -> None:
    before = identities(project)
    texts = {name: (project / name).read_text() for name in ("dvc.yaml", "params.yaml")}
    assert new_stage.main([room, "my_stage"]) == 0
    after = identities(project)
    assert after.pop("my_stage") and after == before
    for name, text in texts.items():
        assert (project / name).read_text().startswith(text.rstrip("\n")), "comments and order stay"


@pytest.mark.costly
def test_a_new_stage_is_complete(project: Path) -> None:
    """All that is held over a stage of this project holds for it at once: section, entry, page, lineage, parameters."""
    assert new_stage.main(["generation", "my_stage"]) == 0
    checked = subprocess.run([sys.executable, "-m", "pipelines.params", "check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    chosen = "agreed or same_sections or reel_check_says"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_project.py", "-k", chosen]
    done = subprocess.run(command, capture_output=True, text=True, cwd=project)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.costly
def test_a_new_stage_trains_as_it_is_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert new_stage.main(["generation", "my_stage"]) == 0
    values = (project / "params.yaml").read_text().replace("steps: 200 ", "steps: 3 ")
    (project / "params.yaml").write_text(values)
    write_latents(project / "data" / "latents")
    words = "--params my_stage --latents data/latents --out checkpoints/my_stage --metrics m.json --plots plots"
    command = [sys.executable, "-m", "pipelines", "pipelines.generation.my_stage", "train", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=project)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((project / "m.json").read_text())["validation_error"] > 0
    assert (project / "checkpoints/my_stage/checkpoint.json").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["footage", "mine"], "room 'footage': stages that read the latents live in representation, generation"),
        (["generation", "My-Stage"], "a name is lower-case letters, digits and underscores"),
        (["generation", "class"], "a name is lower-case"),
        (["generation", "rectified_flow"], "already in dvc.yaml, params.yaml"),
        (["generation", "trained"], "already in pipelines/generation/trained.py"),
    ],
)
def test_what_is_in_the_way_is_told_and_nothing_is_written(
    project: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert new_stage.main(words) == 2
    assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_outside_a_project_it_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match="run it inside a Reelgraph project"):
        new_stage.make("generation", "mine")
    assert importlib.util.find_spec("pipelines.generation.mine") is None
