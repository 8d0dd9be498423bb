"""`reel ablate` on a small real project: variants and seeds in folders of their own, and verdicts that can be wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dagster_dvc.project import DvcProject, ProjectError
from dagster_project import cli, variants
from dagster_project.comparison import difference
from tests.dagster_dvc import toy
from tests.dagster_dvc.test_repro import wait_for

REPO = Path(__file__).parents[2]

GRAPH = """
stages:
  data:
    cmd: python data.py
    deps: [data.py, source]
    params: [data]
    outs: [work/data]
  train:
    meta: {dagster: {headline: [score, plain]}}
    cmd: python train.py
    deps: [train.py, work/data]
    params: [train]
    outs: [work/model]
    metrics: [metrics/train.json]
  judge:
    meta: {dagster: {headline: [quality]}}
    cmd: python judge.py
    deps: [judge.py, work/model]
    params: [judge]
    metrics: [metrics/judge.json]
"""
FILES = {
    "source/numbers.txt": "1 2 3",
    "params.yaml": """
        data: {seed: 5}          # of the data, not of a training
        train:
          effect: 0              # added to the score
          steps: 0
          training: {seed: 7}
        judge: {systems: 2}
        """,
    "data.py": """
        from pathlib import Path
        Path("work").mkdir(exist_ok=True)
        Path("work/data").write_text(Path("source/numbers.txt").read_text())
        with open(Path.home() / "data_ran", "a") as stream: stream.write("x")
        """,
    "train.py": """
        import json, random, sys, time, yaml
        from pathlib import Path
        params = yaml.safe_load(Path("params.yaml").read_text())["train"]
        if params["effect"] == "broken":
            sys.exit("train: the effect is broken")
        seed = params["training"]["seed"]
        Path(".work").mkdir(exist_ok=True)
        state = Path(".work/step")
        for step in range(int(state.read_text()) if state.exists() else 0, params["steps"]):
            time.sleep(0.05)
            Path(".work/partial").write_text(str(step + 1))
            Path(".work/partial").replace(state)
            with open(Path.home() / "steps", "a") as stream: stream.write(f"{seed} {step}\\n")
        state.unlink(missing_ok=True)
        noise = random.Random(f"{seed} {params['effect']}").gauss(0, 1)
        score = params["effect"] + noise
        Path("work/model").write_text(repr(score))
        Path("metrics").mkdir(exist_ok=True)
        Path("metrics/train.json").write_text(json.dumps({"score": score, "plain": 4.0, "loss/total": -score}))
        """,
    "judge.py": """
        import json
        from pathlib import Path
        score = float(Path("work/model").read_text())
        systems = {"good": {"quality": score + 50}, "bad": {"quality": score}}
        Path("metrics/judge.json").write_text(json.dumps({"quality": score, "systems": systems}))
        """,
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after its first run, with the home folder in which its stages count what they did."""
    base = tmp_path_factory.mktemp("ablation")
    (base / "home").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "FILES", FILES)
        patch.setenv("HOME", str(base / "home"))
        toy.dvc(toy.make(base / "project", GRAPH), "repro")
    return base


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    base = Path(shutil.copytree(template, tmp_path / "base"))
    monkeypatch.setenv("HOME", str(base / "home"))
    monkeypatch.setenv("REEL_PROJECT", str(base / "project"))
    for name in ("DAGSTER_HOME", "DAGSTER_DISABLE_TELEMETRY", "REEL_GRACE_SECONDS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)
    return base / "project"


def contents(root: Path) -> dict[str, bytes]:
    """Every file of the project that is not its cache or its scratch."""
    hidden = {".work", ".dvc", ".dagster"}
    files = (file for file in root.rglob("*") if file.is_file() and not hidden & set(file.relative_to(root).parts))
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


def rows(said: str) -> list[list[str]]:
    """The cells of the printed table."""
    lines = said[said.index("number ") :].split("\n\n")[0].splitlines()
    return [re.split(r"  +", line.strip()) for line in lines[1:]]


@pytest.mark.costly
def test_a_large_effect_is_found_and_a_small_one_is_noise(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, ran = contents(project), (project.parent / "home/data_ran").read_text()
    words = ["ablate", "train.effect=0,100,1e-9", "--seeds", "3", "--higher", "score"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    found = [row[-1] for row in rows(said)]
    assert found[:3] == ["baseline", "better", "within noise"], "the score"
    assert found[3:] == ["baseline", "equal", "equal"], "a number on which nothing has an effect"
    assert "± " in rows(said)[0][3]
    assert contents(project) == before, "the workspace is only read"
    assert (project.parent / "home/data_ran").read_text() == ran, "unchanged stages come from the run cache"
    facts = json.loads((project / ".work/ablations/ablation.json").read_text())
    seeds = facts["values"]["train.effect=0"]["score"]
    assert len(set(seeds.values())) == 3 and facts["seeds_moved_in"] == ["train"]
    assert cli.main(words) == 0
    assert "done in" not in capsys.readouterr().out, "the second time nothing runs"


@pytest.mark.costly
def test_numbers_of_a_later_stage_are_compared_and_systems_within_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ablate", "train", "--seeds", "3", "--until", "judge", "--compare", "systems/bad", "systems/good"]
    assert cli.main([*words, "--higher", "quality"]) == 0
    said = capsys.readouterr().out
    assert rows(said)[0][:3] == ["quality", "systems/bad", "3"] and rows(said)[1][-1] == "better"
    assert cli.main([*words, "--lower", "quality"]) == 0
    assert rows(capsys.readouterr().out)[1][-1] == "worse"
    assert cli.main(words) == 0
    assert rows(capsys.readouterr().out)[1][-1] == "higher", "nobody said which way is better"


@pytest.mark.costly
def test_a_failed_variant_is_not_in_the_table(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ablate", "train.effect=0,broken", "--metric", "score"]) == 1
    said = capsys.readouterr()
    assert "train: the effect is broken" in said.out and "failed, and not in the table: train.effect=broken" in said.err
    assert [row[1] for row in rows(said.out)] == ["train.effect=0"], (
        "the restored outputs of before are not its numbers"
    )


@pytest.mark.costly
def test_one_seed_gives_no_verdict(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ablate", "train.effect=0,100", "--metric", "score", "--higher", "score"]) == 0
    assert rows(capsys.readouterr().out)[1][-1] == "one seed: no verdict"


@pytest.mark.costly
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["train.efect=1,2"], "no key train.efect: train has no 'efect'; did you mean effect?"),
        (["train.effect=1,"], "an empty value"),
        (["train.effect=1,1"], "the same value twice"),
        (["trian"], "did you mean train?"),
        (["train.effect=[1"], "not readable as YAML"),
        (["judge", "--seeds", "3"], "has a seed"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    project: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    assert cli.main(["ablate", *words]) == 1
    said = capsys.readouterr().err
    assert complaint in said and "Traceback" not in said and len(said.splitlines()) <= 2
    assert not (project / ".work/ablations").exists()


@pytest.mark.costly
def test_no_training_at_all_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["ablate", "train", "--seeds", "0"])
    assert "'0' is no whole number of at least 1" in capsys.readouterr().err
    assert not (project / ".work/ablations").exists()


@pytest.mark.costly
def test_values_may_hold_commas_and_the_first_is_the_baseline(project: Path) -> None:
    plan = variants.planned(DvcProject(project), ["train.effect=[1, 2],{a: 1, b: 2},'x,y'"], 1, [])
    values = [value for run in plan.runs for key, value in run.edits if key == ("train", "effect")]
    assert values == [[1, 2], {"a": 1, "b": 2}, "x,y"]


@pytest.mark.costly
def test_params_keep_their_comments(project: Path, tmp_path: Path) -> None:
    variants.write_params(project, tmp_path / "new.yaml", [(("train", "effect"), 1e-9)])
    told = (tmp_path / "new.yaml").read_text()
    assert "# added to the score" in told
    assert yaml.safe_load(told)["train"]["effect"] == 1e-9, "a number in YAML 1.1 too"


@pytest.mark.slow
def test_a_stopped_ablation_goes_on_where_it_was(project: Path) -> None:
    words = [sys.executable, "-m", "dagster_project.cli", "ablate", "train.steps=40,41", "--metric", "score"]
    env = {**toy.environment(), "REEL_PROJECT": str(project)}
    process = subprocess.Popen(words, cwd=REPO, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: bool(list(project.glob(".work/ablations/*/.work/step"))), seconds=90)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait(10)
    done = subprocess.run(words, cwd=REPO, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    steps = (project.parent / "home/steps").read_text().split("\n")[:-1]
    assert len(steps) == 81, "no step was made twice, in either variant"


@pytest.mark.costly
def test_an_unpaired_difference_within_its_interval_is_noise() -> None:
    found = difference({0: 1.0, 1: 2.0, 2: 3.0}, {0: 2.0, 1: 1.5, 2: 4.0}, "higher")
    assert found is not None and found.verdict == "within noise" and found.low is not None and found.low < 0
    assert difference({0: 1.0}, {1: 2.0}, "higher") is None
    nearer = difference({0: 0.5, 1: 0.6, 2: 0.55}, {0: 1.1, 1: 1.2, 2: 1.05}, "near 1")
    assert nearer is not None and nearer.verdict == "better"


@pytest.mark.costly
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.lists(st.floats(-5, 5), min_size=2, max_size=6))
def test_swapping_the_variants_swaps_the_verdict(one: list[float], other: list[float]) -> None:
    first, second = dict(enumerate(one)), dict(enumerate(other))
    there, back = difference(first, second, "higher"), difference(second, first, "higher")
    assert there is not None and back is not None
    assert back.verdict == {"better": "worse", "worse": "better"}.get(there.verdict, there.verdict)


@pytest.mark.costly
def test_trainings_without_an_effect_rarely_differ() -> None:
    import random

    draw = random.Random(0)
    found = [
        difference({k: draw.gauss(0, 1) for k in range(3)}, {k: draw.gauss(0, 1) for k in range(3)}, "higher")
        for _ in range(1000)
    ]
    wrong = sum(item is not None and item.verdict in ("better", "worse") for item in found)
    assert 25 <= wrong <= 80, "about one in twenty, as the table says"


@pytest.mark.costly
def test_sources_outside_of_the_project_are_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project.parent / "beside").mkdir()
    (project.parent / "beside/x.txt").write_text("x")
    toy.edit(project, "dvc.yaml", "deps: [data.py, source]", "deps: [data.py, source, ../beside]")
    assert cli.main(["ablate", "train.effect=0,1"]) == 1
    assert "outside of the project" in capsys.readouterr().err


@pytest.mark.costly
def test_unknown_words_are_a_project_error(project: Path) -> None:
    with pytest.raises(ProjectError, match="so nothing would change"):
        toy.edit(project, "params.yaml", "judge: {systems: 2}", "judge: {systems: 2}\nlonely: {a: 1}")
        variants.planned(DvcProject(project), ["lonely.a=1,2"], 1, [])
