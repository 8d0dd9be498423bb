"""The released checkpoint moves only to one that is not worse beyond the interval, says why, and moves back."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from dagster_dvc.project import DvcProject
from dagster_project import promoting
from dagster_project.promoting import Refused, judged, move, promote, released, undo
from tests.dagster_dvc import toy

GRAPH = """
stages:
  flow:
    cmd: python make.py
    deps: [make.py]
    params: [value]
    outs: [checkpoints/flow]
  evaluation:
    cmd: python -m pipelines.launch --alone judging judge --checkpoints checkpoints --out data/out --metrics m --plots p
    deps: [checkpoints/flow]
    outs: [data/out]
"""
MAKE = """
import json, pathlib
value = int(pathlib.Path("params.yaml").read_text().split(":")[1])
out = pathlib.Path("checkpoints/flow")
out.mkdir(parents=True)
latents = {"autoencoder": {"digest": "a" if value < 9 else "b"}}
(out / "generator.json").write_text(json.dumps({"kind": "flow", "latents": latents}))
(out / "value").write_text(str(value))
"""
JUDGE = '''
"""Stands for the evaluation: the greater value is the better one, and 2 are within noise."""
import json, sys
from pathlib import Path
flags = dict(zip(sys.argv[3::2], sys.argv[4::2]))
there = Path(flags["--checkpoints"])
assert (there / "autoencoder" / "weights").read_text() == "of the project", "what decodes lies beside the two"
assert sorted(path.parent.name for path in there.glob("*/generator.json")) == ["candidate", "released"]
one, other = (int((Path(flags["--checkpoints"]) / n / "value").read_text()) for n in ("candidate", "released"))
verdict = "within noise" if abs(one - other) <= 2 else "better" if one > other else "worse"
found = {"difference": one - other, "low": one - other - 2, "high": one - other + 2, "verdict": verdict}
Path(flags["--out"]).mkdir(parents=True)
(Path(flags["--out"]) / "comparisons.json").write_text(json.dumps({"candidate against released": {"agreement": found}}))
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A real DVC project with one generator, and a judge in the place of `python -m pipelines`."""
    root = toy.make(tmp_path / "project", dvc_yaml=GRAPH, **{"make.py": MAKE, "params.yaml": "value: 1\n"})
    for name, file, text in (("autoencoder", "weights", "of the project"), ("other", "generator.json", "{}")):
        (root / "checkpoints" / name).mkdir(parents=True)
        (root / "checkpoints" / name / file).write_text(text)
    (root / "pipelines").mkdir()
    (root / "pipelines" / "__init__.py").touch()
    (root / "pipelines" / "__main__.py").write_text(JUDGE)
    return root


def make(root: Path, value: int) -> DvcProject:
    """The generator of this value, made and recorded."""
    (root / "params.yaml").write_text(f"value: {value}\n")
    toy.dvc(root, "repro", "flow")
    return DvcProject(root)


@pytest.mark.costly
def test_the_pointer_moves_to_what_is_not_worse_stays_otherwise_and_moves_back(project: Path) -> None:
    now = make(project, 5)
    assert "nothing to compare" in move(now, "flow")
    assert "already" in move(now, "flow")
    first = released(now)["flow"][-1]["hash"]
    with pytest.raises(Refused, match=r"agreement -4 \[-6, -2\]: worse\. The released one stays"):
        move(make(project, 1), "flow")
    assert released(now)["flow"][-1]["hash"] == first
    assert "not worse in any of 1 metrics beyond the interval; better" in move(make(project, 8), "flow")
    assert released(now)["flow"][0]["why"].startswith("the first one")
    assert len(released(now)["flow"]) == 2 and not (project / ".work" / "promotion" / "flow").exists()
    undo(now, "flow")
    assert [entry["hash"] for entry in released(now)["flow"]] == [first]
    promoting.copy(now, "flow", project / "copied")
    assert (project / "copied" / "value").read_text() == "5"
    assert (project / "checkpoints" / "autoencoder" / "weights").is_file(), "what was lent is not cleared away"
    undo(now, "flow")
    with pytest.raises(Refused, match="nothing of it is released"):
        undo(now, "flow")


@pytest.mark.costly
def test_what_cannot_be_compared_is_refused_and_a_person_may_overrule(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    move(make(project, 8), "flow")
    now = make(project, 9)
    with pytest.raises(Refused, match="another autoencoder"):
        move(now, "flow")
    assert "a person looked" in move(now, "flow", because="a person looked")
    (project / "params.yaml").write_text("value: 3\n")
    with pytest.raises(Refused, match="it is stale"):
        move(DvcProject(project), "flow")
    words = argparse.Namespace(stage=["evaluation", "flaw"], undo=False, because=None, copy_to=None)
    assert promote(DvcProject(project), words) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("evaluation: not promoted") and said[1].startswith("flaw: ")


def compared(verdict: str) -> dict[str, Any]:
    return {"difference": 0.5, "low": 0.25, "high": 1.0, "verdict": verdict}


def test_one_metric_that_is_worse_or_does_not_count_is_enough_to_stay() -> None:
    good = {"variety": compared("better"), "agreement": compared("within noise")}
    assert "better in variety" in judged(good)
    for verdict in ("worse", "candidate copies training clips"):
        with pytest.raises(Refused, match=verdict):
            judged(good | {"kernel_distance": compared(verdict)})
    with pytest.raises(Refused, match="compared no metric"):
        judged({})
    assert json.dumps(judged(good))
