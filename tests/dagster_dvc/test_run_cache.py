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

REFUSED = {
    "a": ("size: 1\n", "[size]", "a.yaml:1: size: "),
    "b": ("sized:\n  nfiles: 1\n", "[sized]", "b.yaml:2: sized.nfiles: "),
    "c": ("sized:\n  deep:\n  - a: 0\n  - size: 1\n", "[sized]", "c.yaml:4: sized.deep.1.size: "),
    "d": ("sized:\n  deep: {size: {a: 1}}\n", "[sized.deep]", "d.yaml:2: sized.deep.size: "),
    "e": ("x: {y: {size: 1}}\n", "", "e.yaml:1: x.y.size: "),
}
"""By the name of a stage and of its file of parameters: the file, what the stage tracks of it, what is said."""
OTHERS = {
    "f": ("sized: {sizes: 1}\n", "[sized]", ""),
    "g": ("sized: {a: {b: 1}}\nsize: 3\n", "[sized]", ""),
    "h": ("sized: size\n", "[sized]", ""),
}
STAGE = (
    "  {name}: {{cmd: python sized.py {name}, deps: [sized.py], params: [{{{name}.yaml: {keys}}}], outs: [{name}.txt]}}"
)
PROGRAM = """
    import json, sys, yaml
    from pathlib import Path
    name = sys.argv[1]
    Path(f"{name}.txt").write_text(json.dumps(yaml.safe_load(Path(f"{name}.yaml").read_text())))
    """
MADE = """
stages:
  code: {cmd: python make.py, deps: [make.py], outs: [made.json]}
  sized: {cmd: python sized.py made, deps: [sized.py, made.json], params: [{made.json: [sized]}], outs: [made.txt]}
"""
MAKE = 'import json; json.dump({"sized": {"size": 1}}, open("made.json", "w"))\n'


def _project(root: Path, cases: dict[str, tuple[str, str, str]]) -> Path:
    stages = "\n".join(STAGE.format(name=name, keys=keys) for name, (_, keys, _) in cases.items())
    files = {f"{name}__yaml": text for name, (text, _, _) in cases.items()}
    return toy.make(root, f"stages:\n{stages}\n", sized__py=PROGRAM, **files)


def _outcomes(root: Path) -> set[str]:
    project = DvcProject(root)
    return {result.outcome for result in Runner(project, project.stages).run().results.values()}


def _write(root: Path, cases: dict[str, tuple[str, str, str]], old: str, new: str) -> None:
    for name, (text, _, _) in cases.items():
        (root / f"{name}.yaml").write_text(text.replace(old, new))


@pytest.mark.costly
def test_such_a_parameter_is_refused_and_its_stage_runs_without_the_run_cache(tmp_path: Path) -> None:
    root = _project(tmp_path, REFUSED)
    for complaint, (_, _, said) in zip(sorted(complaints(DvcProject(root))), REFUSED.values(), strict=True):
        assert complaint.startswith(said) and "rename it" in complaint
    assert _outcomes(root) == {"executed"}
    _write(root, REFUSED, "1", "2")
    assert _outcomes(root) == {"executed"}
    assert all("2" in (root / f"{name}.txt").read_text() for name in REFUSED)
    _write(root, REFUSED, "", "")
    with dg.DagsterInstance.ephemeral() as instance:
        assert materialize(root, instance, *REFUSED).success
    assert not any("2" in (root / f"{name}.txt").read_text() for name in REFUSED)


@pytest.mark.costly
def test_one_in_a_file_that_a_stage_makes_is_found_too(tmp_path: Path) -> None:
    root = toy.make(tmp_path, MADE, make__py=MAKE, sized__py=PROGRAM)
    project = DvcProject(root)
    assert complaints(project) == []
    assert Runner(project, ["code"]).run().results["code"].outcome == "executed"
    assert complaints(DvcProject(root))[0].startswith("made.json:1: sized.size: ")


@pytest.mark.costly
def test_other_names_use_the_run_cache_as_ever(tmp_path: Path) -> None:
    root = _project(tmp_path, OTHERS)
    assert complaints(DvcProject(root)) == []
    assert _outcomes(root) == {"executed"}
    for name in OTHERS:
        (root / f"{name}.yaml").write_text("sized: other\nsize: 3\n")
    assert _outcomes(root) == {"executed"}
    _write(root, OTHERS, "", "")
    assert _outcomes(root) == {"restored"}
