"""`reel check` of a stage that a user adds: whatever is wrong with its entry, section or class is named with place."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dagster_dvc.project import DvcProject
from dagster_project.checking import check
from pipelines import entries

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project's code, with a stage made by `reel new`. Not to be changed."""
    root = tmp_path_factory.mktemp("made")
    for name in ("pipelines", "docs"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "pictures"))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, root / name)
    assert "docs/mine.md" in said(root, "pipelines.new_stage", "generation", "mine")
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(project: Path, *words: str) -> str:
    """Output of a module of the project's own code, in a process of its own: this one knows other code."""
    done = subprocess.run([sys.executable, "-m", *words], cwd=project, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def edit(file: str, old: str, new: str) -> None:
    """In the part of the file that is the new stage's, which stands last."""
    text = Path(file).read_text()
    assert old in text, old
    head, _, tail = text.rpartition(old)
    Path(file).write_text(head + new + tail)


def line_of(file: str, word: str) -> int:
    """The last line that begins with the word."""
    lines = Path(file).read_text().splitlines()
    return max(number for number, line in enumerate(lines, 1) if line.strip().startswith(word))


@pytest.mark.costly
def test_a_new_stage_has_no_fault_and_its_project_none(project: Path) -> None:
    assert entries.complaints() == []
    assert said(project, "pipelines.entries") == ""


ENTRY = [
    ("desc: What the stage mine does, in one sentence.", "desc: What it does", "desc", "desc: is one sentence"),
    ("    desc: What the stage mine does, in one sentence.\n", "", "mine:", "desc: missing; add one sentence"),
    ("dagster: {group: generation, kinds", "dagster: {kinds", "meta", "meta: no dagster.group; add"),
    ("params: [mine, {code.json: [mine]}]", "params: [mine]", "params", "must be `params: [mine, {code.json"),
    ("{code.json: [mine]}", "{code.json: [autoencoder]}", "params", "must be `params: [mine, {code.json: [mine]}]`"),
    ("    params: [mine, {code.json: [mine]}]\n", "", "mine:", "params: must be"),
    ("deps: [data/latents]", "deps: [data/latents, pipelines]", "deps", "pipelines is code, which code.json"),
    ("    deps: [data/latents]\n", "", "mine:", "deps: --latents data/latents is read and is not in it"),
    ("deps: [data/latents]", "deps: [data/latent]", "deps", "data/latent: no stage makes it and it is not there; did"),
    ("deps: [data/latents]", "deps: [data/latents, footage]", "deps", "footage: no stage makes it and it is not there"),
    ("deps: [data/latents]", "deps: [data/latents, checkpoints/mine]", "deps", "checkpoints/mine is what the stage"),
    ("outs: [checkpoints/mine]", "outs: [checkpoints/min]", "outs", "--out checkpoints/mine is not in it; it has"),
    ("    outs: [checkpoints/mine]\n", "", "mine:", "outs: --out checkpoints/mine is not in it. Without it DVC"),
    ("plots: [plots/mine]", "plots: [plots/mine, plots/more]", "plots", "plots/more is made by no flag"),
    ("--params mine ", "", "cmd", "--params is missing; write --params mine"),
    ("--params mine ", "--params autoencoder ", "cmd", "--params autoencoder is not its own section"),
    ("--latents data/latents", "--latent data/latents", "cmd", "--latent is no argument of pipelines"),
    ("--latents data/latents", "", "cmd", "--latents is missing; pipelines.generation.mine.train needs it"),
    ("--latents data/latents", "--latents", "cmd", "--latents has no value" ),
    ("--latents data/latents", "--latents 'data/latents'", "cmd", "`'` is the shell's or DVC's"),
    ("--latents data/latents", "--latents ${place}", "cmd", "`$` is the shell's or DVC's"),
    ("pipelines.launch pipelines", "pipelines.launch --threads=none pipelines", "cmd", "--threads=none: the l"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "key", "what"), ENTRY, ids=[f"{new[:30]}:{key}" for _, new, key, _ in ENTRY])
def test_every_fault_of_an_entry_is_one_line_with_its_place(
    project: Path, old: str, new: str, key: str, what: str
) -> None:
    edit("dvc.yaml", old, new)
    found = entries.complaints()
    place = f"dvc.yaml:{line_of('dvc.yaml', key)}: stage mine: "
    assert [line for line in found if line.startswith(place) and what in line], found
    assert all(re.match(r"dvc\.yaml:\d+: stage mine: \w+: .*[.?]$", line) and "\n" not in line for line in found)


def test_a_page_that_is_missing_and_a_list_of_commands_are_told(project: Path) -> None:
    (project / "docs/mine.md").unlink()
    assert "docs/mine.md is missing; write what it reads" in "".join(entries.complaints())
    edit(
        "dvc.yaml",
        "cmd: python -m pipelines.launch pipelines.generation.mine",
        "cmd: [echo, python -m pipelines.launch x",
    )
    edit("dvc.yaml", "--plots plots/mine", "--plots plots/mine]")
    assert "`&` is the shell's or DVC's; write one command" in "".join(entries.complaints())


FILES = [
    ("params.yaml", "\nmine:\n", "\nmin:\n", r"params\.yaml:\d+: min: unknown section; did you mean mine\?"),
    ("params.yaml", "noise_std: 0.5 ", "noise: 0.5 ", r"params\.yaml:\d+: mine\.noise: unknown key; did you mean"),
    ("params.yaml", "noise_std: 0.5 ", "noise_std: none ", r"params\.yaml:\d+: mine\.noise_std: got 'none'"),
    ("dvc.yaml", "pipelines.generation.mine", "pipelines.generation.my",
     r"dvc\.yaml:\d+: stage mine: cmd: pipelines\.generation\.my: no such stage module"),
    ("dvc.yaml", "mine train", "mine tran", r"dvc\.yaml:\d+: stage mine: cmd: .*no function tran; it has train"),
    ("pipelines/generation/mine_params.py", "noise_std: Positive", "noise_std: Positive = 0.5",
     r"pipelines/generation/mine_params\.py:11: MineParams\.noise_std has a default"),
    ("pipelines/generation/mine_params.py", "class MineParams", "class OtherParams",
     r"pipelines/generation/mine\.py:\d+: from pipelines\.generation\.mine_params import MineParams: .*correct it"),
    ("pipelines/generation/mine_params.py", "MineParams(Params)", "MineParams",
     r"pipelines/generation/mine\.py:\d+: from .* is no class of pipelines\.params\.Params; derive it"),
    ("pipelines/generation/mine_params.py", "Positive\n    training", "Positve\n    training",
     r"params\.yaml: mine: its class in pipelines\.generation\.mine_params .*you should define `Positve`"),
    ("pipelines/generation/mine_params.py", "training: Training", "training: Training)",
     r"pipelines/generation/mine_params\.py:12: unmatched '\)'; put it right"),
    ("pipelines/generation/mine.py", "params: MineParams, ", "", r"dvc\.yaml:\d+: stage mine: cmd: .*must take"),
]  # fmt: skip


@pytest.mark.costly
@pytest.mark.parametrize(("file", "old", "new", "what"), FILES, ids=[new.strip()[:24] for _, _, new, _ in FILES])
def test_every_fault_of_a_section_its_class_or_its_module_is_told(
    project: Path, file: str, old: str, new: str, what: str
) -> None:
    edit(file, old, new)
    found = said(project, "pipelines.entries").replace(f"{project}/", "")
    assert re.search(f"^{what}", found, re.MULTILINE), found
    assert "Traceback" not in found


@pytest.mark.costly
def test_all_faults_are_told_at_once(project: Path) -> None:
    edit("dvc.yaml", "    deps: [data/latents]\n", "")
    edit("dvc.yaml", "dagster: {group: generation, kinds", "dagster: {kinds")
    edit("params.yaml", "noise_std: 0.5 ", "noise: 0.5 ")
    assert len(said(project, "pipelines.entries").splitlines()) == 4, "deps, group, unknown key, missing key"


@pytest.mark.costly
def test_what_dvc_and_the_project_both_find_is_told_once(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / ".dvc", project / ".dvc", ignore=lambda _, names: {*names} - {"config"})
    assert check(DvcProject(project)) == 0  # this graph is shown while none can be read
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("latent_mae:", "latent_mae: [", 1))
    assert check(DvcProject(project)) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and re.match(r"params\.yaml:\d+: not readable as YAML", told[0])
