"""`reel keep`: one command, and everything that encodes and decodes reads another autoencoder; DVC agrees."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dagster_dvc import graph
from dagster_dvc.project import DvcProject, ProjectError
from dagster_dvc.runner import Runner
from dagster_dvc.status import stale
from dagster_project import keeping
from dagster_project.cli import main
from tests.dagster_dvc import toy

ROOT = Path(__file__).parents[2]
MAKE = """
import sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
text = "+".join([open(words[one]).read() for one in ("--init", "--autoencoder") if one in words] + [words["--add"]])
open(words["--out"], "w").write(text)
"""
GRAPH = """
stages:
  autoencoder:
    cmd: python make.py --add a --out a.txt
    outs: [a.txt]
  sharper:  # a comment that stays
    meta: {dagster: {optional: true}}
    cmd: python make.py --init a.txt --add s --out s.txt
    deps: [a.txt]
    outs: [s.txt]
  larger:
    meta: {dagster: {optional: true}}
    cmd: >-
      python make.py --init a.txt
      --add l --out l.txt
    deps:
      - a.txt
    outs: [l.txt]
  latent_shards:
    cmd: python make.py --autoencoder a.txt --add latents --out latents.txt
    deps: [a.txt]
    outs: [latents.txt]
  other:
    cmd: python make.py --autoencoder a.txt --add other --out aa.txt
    deps: [a.txt]
    outs: [aa.txt]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = toy.make(tmp_path / "project", GRAPH.replace("python make.py", f"{sys.executable} make.py"))
    (root / "make.py").write_text(MAKE)
    monkeypatch.setenv("REEL_PROJECT", str(root))
    return root


def latents(root: Path) -> str:
    """What latent_shards makes, run with everything before it."""
    inside = DvcProject(root)
    assert not Runner(inside, inside.needed(["latent_shards"])).run().failed
    return (root / "latents.txt").read_text()


@pytest.mark.costly
def test_latents_are_made_from_the_one_that_is_kept_and_from_the_former_again(project: Path) -> None:
    before = (project / "dvc.yaml").read_text()
    assert latents(project) == "a+latents"
    assert not (project / "s.txt").exists()
    assert main(["keep", "sharper"]) == 0
    assert {"latent_shards", "other", "sharper"} <= set(stale(DvcProject(project)))
    assert latents(project) == "a+s+latents"  # the optional stage ran, because it is needed
    assert main(["keep", "larger"]) == 0
    assert latents(project) == "a+s+l+latents"  # the decoder goes on from what was kept
    assert main(["keep", "sharper"]) == 0
    assert main(["keep", "autoencoder"]) == 0
    assert (project / "dvc.yaml").read_text() == before
    assert latents(project) == "a+latents"


@pytest.mark.costly
def test_without_a_stage_it_says_which_there_are(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "numbers.json").write_text(
        json.dumps({"psnr": 31.25, "gates": [{"name": "flicker", "verdict": "fail"}]})
    )
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text.replace("--add s", "--add s --metrics numbers.json"))
    assert main(["keep"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "kept  autoencoder  never run",
        "      sharper  psnr 31.25  [flicker fail]  a gate failed: keep another",
        "      larger  never run",
    ]


@pytest.mark.costly
@pytest.mark.parametrize("stage", ["other", "sharpr"])
def test_what_makes_no_autoencoder_is_refused_with_the_names(
    project: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    before = (project / "dvc.yaml").read_text()
    assert main(["keep", stage]) == 1
    said = f"reel keep: {stage} makes no autoencoder of this chain; there are autoencoder, sharper, larger."
    assert capsys.readouterr().err.strip() == said
    assert (project / "dvc.yaml").read_text() == before


def test_a_path_that_comes_out_of_an_anchor_is_not_half_changed() -> None:
    text = "x: &deps [a.txt]\nstages:\n  latent_shards:\n    cmd: run --autoencoder a.txt\n    deps: *deps\n"
    with pytest.raises(ProjectError, match=r"latent_shards .* by hand|by hand"):
        keeping.exchanged("stages:\n  latent_shards: {cmd: run}\n", ["latent_shards"], "a.txt", "s.txt")
    assert "[a.txt]" in keeping.exchanged(text, ["latent_shards"], "a.txt", "s.txt")


@pytest.mark.costly
def test_in_the_projects_own_graph_every_reader_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "graph.yaml").symlink_to("dvc.yaml")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, check=True)
    monkeypatch.setenv("REEL_PROJECT", str(tmp_path))
    before = (tmp_path / "dvc.yaml").read_bytes()
    readers = [name for name, above in DvcProject(tmp_path).upstream.items() if "autoencoder" in above]
    assert main(["keep", "autoencoder_adversarial"]) == 0
    now = DvcProject(tmp_path)
    assert [name for name in readers if "checkpoints/autoencoder" in now.stages[name].deps] == [
        "autoencoder_adversarial"
    ]
    assert graph.reaches("latent_shards", "autoencoder_adversarial", now.upstream)
    assert "autoencoder_adversarial" not in now.set_aside
    assert main(["keep", "autoencoder"]) == 0
    assert (tmp_path / "dvc.yaml").read_bytes() == before
