"""`reel compare`: folders, revisions and checkpoints side by side, seeds paired, verdicts as far as they go."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dagster_dvc.project import DvcProject, ProjectError
from dagster_project import cli, comparing, revision, sides
from dagster_project.sides import Member, by_seed, pairs_of

GRAPH = {"stages": {"train": {"cmd": "echo", "params": ["train"], "metrics": ["metrics/train.json"],
                              "plots": ["plots/train"], "meta": {"dagster": {"headline": ["score"]}}}}}  # fmt: skip


PROMPT = "a <b> moves\x00 " + "x" * 100_000


def project(root: Path, score: float, seed: int) -> Path:
    """A project of one stage that has left a number and a picture."""
    for name in ("metrics", "plots/train", ".dvc"):
        (root / name).mkdir(parents=True)
    (root / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    (root / "dvc.yaml").write_text(json.dumps(GRAPH))
    (root / "params.yaml").write_text(f"train: {{training: {{seed: {seed}}}}}\n")
    (root / "metrics/train.json").write_text(json.dumps({"score": score, "other": 1.0}))
    (root / "plots/train/<b>.png").write_bytes(b"picture")
    return root


def reel(root: Path, *words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REEL_PROJECT", str(root))
        for name in ("DAGSTER_HOME", "DAGSTER_DISABLE_TELEMETRY", "REEL_GRACE_SECONDS", "OMP_NUM_THREADS"):
            patch.setenv(name, "")
            patch.delenv(name)
        return cli.main(["compare", *words])


@pytest.mark.costly
def test_sides_of_several_seeds_get_a_verdict_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = project(tmp_path / "here", 1.0, 0)
    for number, seed in enumerate((0, 1)):
        project(root / f"a{number}", 1.0 + seed / 10, seed)
        project(root / f"b{number}", 5.0 + seed / 10 + number / 100, seed)
    assert reel(root, "a0,a1", "b0,b1", "--higher", "*score", "--out", "said") == 0
    said = capsys.readouterr().out
    assert "train:score" in said and "train:other" not in said, "the headline"
    assert "a (2)" in said and "b (2)" in said, "what the members have in common"
    assert "1.05 ± 0.071" in said and " better" in said and "+4 [+3.94, +4.07]" in said
    page = (root / "said/compare.html").read_text()
    assert "&lt;b&gt;.png" in page and "<b>" not in page and page.count("data:image/png") == 2
    assert "http:" not in page and "https:" not in page and (root / "said/table.csv").is_file()


def test_one_training_each_gets_no_verdict_over_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project(tmp_path, 1.0, 0)
    project(tmp_path / "a", 9.0, 5)
    assert reel(tmp_path, ".", "a", "--metric", "score") == 0
    assert "one seed: no verdict" in (said := capsys.readouterr().out) and "by chance" not in said


def test_sides_that_have_the_same_in_common_or_nothing_go_by_all_their_names() -> None:
    assert comparing._labels(["a0,a1", "b0,b1", "c"]) == ["a (2)", "b (2)", "c"]
    for words in (["a0,a1", "a2,a3"], ["x,y", "z"]):
        assert comparing._labels(words) == words


@pytest.mark.parametrize(
    ("words", "said"),
    [(["."], "two or more different sides"), ([".", "."], "two or more different sides"),
     ([".", "nowhere"], "nowhere: no such folder"), ([".", "metrics"], "neither a checkpoint nor a project"),
     ([".", "a", "--metric", "loss"], "no number is called loss; there are train:score")],
)  # fmt: skip
def test_mistakes_are_told_in_a_line(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    project(tmp_path, 1.0, 0)
    project(tmp_path / "a", 2.0, 0)
    assert reel(tmp_path, *words) != 0
    assert said in capsys.readouterr().err


def test_two_members_of_one_side_with_equal_seeds_are_refused() -> None:
    same = [Member(name, '{"train": 0}', {"x": 1.0}, ()) for name in ("one", "two")]
    with pytest.raises(ProjectError, match="one and two have the same seeds"):
        list(by_seed({"side": same}))


def checkpoint(root: Path, name: str) -> None:
    folder, weights = root / "checkpoints" / name, f"weights of {name}"
    folder.mkdir(parents=True)
    results = {"loss": 0.5, "gates": [{"name": "x", "value": 1.0}]}
    (folder / "checkpoint.json").write_text(json.dumps({"weights": weights, "seed": 0, "results": results}))
    (folder / "lineage.json").write_text(json.dumps({"artifact": weights}))


def evaluated(root: Path) -> None:
    """An evaluation that judged two checkpoints, and one that has been trained again since."""
    for name in ("one", "two", "anew"):
        checkpoint(root, name)
    holds = {name: f"weights of {name}" for name in ("one", "two")} | {"anew": "earlier weights"}
    folder = root / "data/evaluation"
    (folder / "clips").mkdir(parents=True)
    for system in ("one", "two", "held_out"):
        (folder / f"clips/00-{system}.mp4").write_bytes(b"clip")
    rows = [{"system": name, "prompt": PROMPT, "file": f"clips/00-{name}.mp4"} for name in ("one", "two", "held_out")]
    pq.write_table(pa.Table.from_pylist([*rows, {**rows[0], "file": None}]), folder / "samples.parquet")
    node = {"inputs": {"checkpoints": {"holds": holds}}}
    (folder / "lineage.json").write_text(json.dumps({"artifact": "e", "nodes": {"e": node}}))
    pair = {"difference": 0.5, "low": 0.25, "high": 0.75, "verdict": "better"}
    (folder / "comparisons.json").write_text(json.dumps({"one against two": {"motion": pair}}))
    (root / "metrics/evaluation.json").write_text(json.dumps({"systems": {n: {"motion": 2.0} for n in holds}}))


def test_checkpoints_are_compared_by_the_evaluation_that_judged_them(tmp_path: Path) -> None:
    project(tmp_path, 1.0, 0)
    evaluated(tmp_path)
    here = DvcProject(tmp_path)
    one, two, anew = (sides.read_member(f"checkpoints/{name}", here, tmp_path, []) for name in ("one", "two", "anew"))
    assert one.numbers == {"training:loss": 0.5, "evaluation:motion": 2.0} and list(one.pictures) == ["clip 00"]
    assert anew.numbers == {"training:loss": 0.5}, "other weights than those that were judged"
    assert pairs_of(two, one)["motion"]["verdict"] == "better"
    assert pairs_of(one, two)["motion"] == {"difference": -0.5, "low": -0.75, "high": -0.25, "verdict": "worse"}
    assert pairs_of(one, anew) == {}


def test_the_verdict_over_prompts_stands_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project(tmp_path, 1.0, 0)
    evaluated(tmp_path)
    assert reel(tmp_path, "checkpoints/two", "checkpoints/one") == 0
    assert "+0.5 [+0.25, +0.75]" in (said := capsys.readouterr().out) and "better (over prompts" in said
    [page] = (tmp_path / ".work/compare").glob("*/compare.html")
    text = page.read_text()
    assert "a &lt;b&gt; moves" in text and "<b> moves" not in text and len(text) < 20_000
    assert re.findall("<figcaption>(.*?)</figcaption>", text) == ["real", "checkpoints/two", "checkpoints/one"]
    assert text.count("<td class=better>") == 1 and text.count("data:video/mp4") == 3


def git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.costly
def test_a_revision_is_compared_by_its_own_results_and_the_project_is_only_read(tmp_path: Path) -> None:
    root = tmp_path / "p"
    root.mkdir()
    make = "mkdir -p metrics plots/train && echo '{\"score\": 3}' > metrics/train.json && touch plots/train/x.png"
    stage = {"cmd": make, "metrics": ["metrics/train.json"], "plots": ["plots/train"]}
    (root / "dvc.yaml").write_text(json.dumps({"stages": {"train": stage}}))
    git(root, "init", "-q")
    for words in (["init", "-q"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, check=True)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "one")
    head = git(root, "rev-parse", "HEAD")
    git(root, "update-ref", "refs/exps/ab/cdef/wide-run", head)
    git(root, "update-ref", "refs/exps/exec/EXEC_HEAD", head)  # as DVC leaves after an experiment
    assert revision.commit_of("wide-run", root) == revision.commit_of("HEAD", root) == head
    with pytest.raises(ProjectError, match=r"nowhere: neither a folder.*experiments: wide-run\)"):
        revision.commit_of("nowhere", root)
    (root / "metrics/train.json").unlink()
    (root / "metrics/train.json").write_text('{"score": 4}')
    (tmp_path / "scratch").mkdir()
    member = sides.read_member("wide-run", DvcProject(root), tmp_path / "scratch", [])
    assert member.numbers == {"train:score": 3.0} and list(member.pictures) == ["train/x.png"]
    assert (root / "metrics/train.json").read_text() == '{"score": 4}'
