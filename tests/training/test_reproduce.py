"""`reel reproduce`: the recorded code, values and inputs again, compared bit by bit; refusals in words."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines import run_facts
from pipelines.chain import carry
from pipelines.provenance import lineage
from pipelines.stage import RUNS
from pipelines.training import reproduce
from pipelines.training.reproduce import asked, main
from pipelines.training.reproduced import compared
from tests.training.test_identical import commit, project, run


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of a training and a stage after it, which DVC ran at a commit, and whose code has changed since."""
    root = project(tmp_path_factory.mktemp("reproduce") / "project")
    commit(root, "the project")
    run(root, sys.executable, "-m", "dvc", "repro")
    regression = root / "pipelines/toy/regression.py"
    regression.write_text(regression.read_text().replace("self.noise", "1.0 * self.noise"))
    commit(root, "other code")
    return root


@pytest.fixture
def here(ran: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ran)
    for name in ("REEL_PROJECT", "PYTHONPATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return ran


def tree(root: Path) -> dict[str, bytes]:
    kept = (path for path in root.rglob("*") if path.is_file() and ".work" not in path.parts)
    return {
        str(path): path.read_bytes() for path in kept if ".git" not in path.parts and "__pycache__" not in str(path)
    }


@pytest.mark.costly
def test_a_copied_checkpoint_comes_out_bit_by_bit_by_the_code_of_its_commit(
    here: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(here / "checkpoints/toy", tmp_path / "sent by a friend"))
    head, before = str(lineage(copy).runs[lineage(copy).artifact]["commit"]), tree(here)
    assert main([str(copy)]) == 0
    said = capfd.readouterr().out
    assert f"the code of commit {head[:12]}" in said and "the same, bit by bit" in said
    assert tree(here) == before, "the project is only read"
    assert "commit" in (copy / RUNS).read_text() and (here / ".work/reproduce").is_dir()
    assert main([str(copy)]) == 0
    again = capfd.readouterr().out
    assert "the same, bit by bit" in again and "continues at" not in again, "made again, not taken from the first try"


NODE: dict[str, Any] = {
    "stage": "after", "path": "data/after", "params": {"times": 1}, "code": "f" * 32, "environment": {},
    "command": ["pipelines.toy.stages", "follow", "--params", "after", "--checkpoint", "checkpoints/toy",
                "--out", "data/after"],
}  # fmt: skip
DIRTY = {"status": "finished", "header": {"code": {"commit": "a" * 40, "dirty": True}}, "runtime": {"hardware": {}}}


def artifact(folder: Path, inputs: dict[str, Path], **more: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "size").write_text("1")
    carry(folder, {**NODE, **more}, inputs, {"checkpoint": "checkpoints/toy"})
    return folder


@pytest.mark.costly
def test_code_that_was_never_committed_is_refused_in_words(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.training.accept.MOST_COMMITS", 1)
    folder = artifact(tmp_path / "after", {})
    run_facts.finish(folder, DIRTY)
    assert main([str(folder)]) == 3
    said = capsys.readouterr().err
    assert "commit aaaaaaaaaaaa, with local changes that were never committed" in said and said.count("\n") == 1


@pytest.mark.costly
def test_missing_inputs_are_named_with_what_lies_there_now(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(here / "checkpoints/toy", tmp_path / "toy"))
    record = json.loads((other / "checkpoint.json").read_text())
    (other / "checkpoint.json").write_text(json.dumps({**record, "weights": {"a": "b"}}))
    code = json.loads((here / "code.json").read_text())["after"]
    folder = artifact(tmp_path / "after", {"checkpoint": other}, code=code)
    assert main([str(folder), "--out", str(tmp_path / "place")]) == 3
    said = capsys.readouterr().err
    assert "inputs are missing: checkpoint: checkpoints/toy" in said and "what is there now is" in said


@pytest.mark.costly
def test_an_input_that_was_replaced_comes_from_the_cache_of_dvc(here: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(here / "data/after", tmp_path / "after"))
    kept = (here / "checkpoints/toy").rename(here / "kept")
    try:
        reproduce.put_inputs(asked(copy), tmp_path / "place")
    finally:
        kept.rename(here / "checkpoints/toy")
    node = asked(copy).node["inputs"]["checkpoint"]
    assert lineage(tmp_path / "place/checkpoints/toy").now == node["digest"]


@pytest.mark.costly
@pytest.mark.parametrize(
    ("more", "said"),
    [({"command": None}, "not by a stage that could run again"), ({"code": None}, "does not name the code"),
     ({"params": None}, "not by a stage")],
)  # fmt: skip
def test_what_does_not_say_how_it_was_made_is_refused(
    tmp_path: Path, more: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = artifact(tmp_path / "x", {}, **more)
    assert main([str(folder)]) == 3 and said in capsys.readouterr().err
    (folder / "size").write_text("2")
    assert main([str(folder)]) == 3 and main([str(folder / "size")]) == 3 and main([str(tmp_path / "no")]) == 3
    assert "Traceback" not in capsys.readouterr().err


def results(folder: Path, score: float, rows: list[dict[str, float]]) -> Path:
    folder.mkdir()
    (folder / "checkpoint.json").write_text(json.dumps({"weights": {"a": score}, "results": {"score": score, "n": 3}}))
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    carry(folder, NODE, {}, {})
    return folder


@pytest.mark.costly
def test_noise_is_measured_and_only_the_asked_for_is_allowed(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    made = asked(results(tmp_path / "then", 2.0, rows))
    again = results(tmp_path / "now", 2.01, [rows[0], {"step": 2, "loss": 1.5}])
    same, lines = compared(made.folder, again, 0.01)
    assert same and "at step 2, loss: 1.0 → 1.5" in " ".join(lines) and "0.50% apart" in " ".join(lines)
    assert not compared(made.folder, again, 0.004)[0] and not compared(made.folder, again, 0.0)[0]
    assert compared(made.folder, results(tmp_path / "same", 2.0, rows), 0.0) == (True, [
        f"the same, bit by bit: content {made.lineage.artifact[:12]}, 2 files"])  # fmt: skip
