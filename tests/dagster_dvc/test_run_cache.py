"""Parameters that DVC leaves out of its run cache's key never bring old results back."""

from pathlib import Path

import dagster as dg
import pytest

from dagster_dvc.doctor import complaints
from dagster_dvc.project import DvcProject
from dagster_dvc.runner import Runner
from tests.dagster_dvc import toy
from tests.dagster_dvc.dagster_toy import QUIET, materialize

pytestmark = QUIET

STAGES = """
stages:
  code: {cmd: python make.py, deps: [make.py], outs: [made.json]}
  sized:
    cmd: python sized.py
    deps: [sized.py, made.json]
    params: PARAMS
    outs: [out.txt]
"""
PROGRAM = """
    import json, yaml
    from pathlib import Path
    made = json.loads(Path("made.json").read_text())
    Path("out.txt").write_text(json.dumps([yaml.safe_load(Path("params.yaml").read_text()), made]))
    """
MAKE = 'import json; json.dump({"sized": {"size": 1}}, open("made.json", "w"))\n'


@pytest.mark.parametrize(
    ("params", "tracked", "said"),
    [
        ("size: 1\n", "[size]", "params.yaml:1: size: "),
        ("sized:\n  nfiles: 1\n", "[sized]", "params.yaml:2: sized.nfiles: "),
        ("sized:\n  deep:\n  - a: 0\n  - size: 1\n", "[sized]", "params.yaml:4: sized.deep.1.size: "),
        ("sized:\n  deep: {size: {a: 1}}\n", "[sized.deep]", "params.yaml:2: sized.deep.size: "),
        ("x: {y: {size: 1}}\n", "[{params.yaml: }]", "params.yaml:1: x.y.size: "),
    ],
)
def test_such_a_parameter_is_refused_and_its_stage_runs_without_the_run_cache(
    tmp_path: Path, params: str, tracked: str, said: str
) -> None:
    root = toy.make(tmp_path, STAGES.replace("PARAMS", tracked), sized__py=PROGRAM, make__py=MAKE, params__yaml=params)
    [complaint] = complaints(DvcProject(root))
    assert complaint.startswith(said) and "rename it" in complaint
    assert _run(root)[0] == "executed"
    (root / "params.yaml").write_text(params.replace("1", "2"))
    assert _run(root) == ("executed", (root / "out.txt").read_text())
    assert "2" in (root / "out.txt").read_text().split("]")[0]
    (root / "params.yaml").write_text(params)
    with dg.DagsterInstance.ephemeral() as instance:
        assert materialize(root, instance, "sized").success
    assert "2" not in (root / "out.txt").read_text().split("]")[0]


def test_one_in_a_file_that_a_stage_makes_is_found_too(tmp_path: Path) -> None:
    tracked = "[{made.json: [sized]}]"
    root = toy.make(tmp_path, STAGES.replace("PARAMS", tracked), sized__py=PROGRAM, make__py=MAKE)
    assert complaints(DvcProject(root)) == []
    assert _run(root, "code")[0] == "executed"
    assert complaints(DvcProject(root))[0].startswith("made.json:1: sized.size: ")


@pytest.mark.parametrize("params", ["sized: {sizes: 1}\n", "sized: {a: {b: 1}}\nsize: 3\n", "sized: size\n"])
def test_other_names_use_the_run_cache_as_ever(tmp_path: Path, params: str) -> None:
    root = toy.make(
        tmp_path, STAGES.replace("PARAMS", "[sized]"), sized__py=PROGRAM, make__py=MAKE, params__yaml=params
    )
    assert complaints(DvcProject(root)) == []
    assert _run(root)[0] == "executed"
    (root / "params.yaml").write_text("sized: other\nsize: 3\n")
    assert _run(root)[0] == "executed"
    (root / "params.yaml").write_text(params)
    assert _run(root)[0] == "restored"


def _run(root: Path, name: str = "sized") -> tuple[str, str]:
    project = DvcProject(root)
    result = Runner(project, [name] if name == "code" else project.stages).run().results[name]
    return result.outcome, (root / "out.txt").read_text() if (root / "out.txt").exists() else ""
