"""The project as a Dagster component: YAML in, the same assets out; and the package's own command."""

import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster.components.core.component_tree import ComponentTreeException
from dagster.components.testing.utils import create_defs_folder_sandbox

from dagster_dvc import __main__ as command
from dagster_dvc.component import DvcProjectComponent
from tests.dagster_dvc import toy
from tests.dagster_dvc.dagster_toy import QUIET, definitions

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated"),  # Dagster 1.13 reads YAML with it
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),  # and adds code references, which are beta
]


def loaded(root: Path, **attributes: object) -> dg.Definitions:
    """The definitions that a component with these attributes gives."""
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(DvcProjectComponent, scaffold_params={"project": str(root)})
        written = yaml.safe_load((path / "defs.yaml").read_text())
        assert not Path(written["attributes"]["project"]).is_absolute()
        written["attributes"] |= attributes
        (path / "defs.yaml").write_text(yaml.safe_dump(written))
        with sandbox.load_component_and_build_defs(path) as (component, made):
            assert isinstance(component, DvcProjectComponent)
            return made


def test_a_scaffolded_component_gives_the_assets_of_the_python_interface(reproduced: Path) -> None:
    by_yaml, by_python = loaded(reproduced).resolve_asset_graph(), definitions(reproduced).resolve_asset_graph()
    assert by_yaml.get_all_asset_keys() == by_python.get_all_asset_keys()
    for key in by_yaml.materializable_asset_keys:
        assert by_yaml.get(key).code_version == by_python.get(key).code_version
        assert by_yaml.get(key).parent_keys == by_python.get(key).parent_keys


def test_yaml_selects_translates_and_leaves_sensors_out(reproduced: Path) -> None:
    made = loaded(
        reproduced,
        exclude=["evaluate"],
        sensors=False,
        translation={"key_prefix": "toy", "group_name": "of_{{ stage.name }}", "tags": {"team": "video"}},
        resource={"grace_seconds": 2.5},
    )
    graph = made.resolve_asset_graph()
    train = graph.get(dg.AssetKey(["toy", "train"]))
    assert train.parent_keys == {dg.AssetKey(["toy", "left"]), dg.AssetKey(["toy", "right"])}
    assert train.group_name == "of_train" and train.tags["team"] == "video"
    assert {key.path[-1] for key in graph.materializable_asset_keys} == {"prepare", "left", "right", "train"}
    assert not made.sensors
    assert made.resources and made.resources["dvc"].grace_seconds == 2.5


def test_a_component_without_a_project_says_so(tmp_path: Path) -> None:
    with pytest.raises(ComponentTreeException) as error:
        loaded(tmp_path)
    assert "not a DVC project" in str(error.value.__cause__)


@pytest.mark.costly
def test_the_packages_command_works_without_dagster(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--project", str(root)]
    assert command.main([*at, "doctor"]) == 0
    assert command.main([*at, "prepare"]) == 0
    toy.edit(root, "params.yaml", "amount: 2", "amount: 3")
    capsys.readouterr()
    assert command.main([*at, "materialize", "right"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == ["right | added on the right", "prepare: unchanged", "right: executed"]
    assert command.main([*at, "lineage", "right"]) == 0
    assert "right.amount" in capsys.readouterr().out
    assert command.main([*at, "materialize", "rihgt"]) == 1
    assert "did you mean right?" in capsys.readouterr().err
    (root / "source/numbers.txt").unlink()
    assert command.main([*at, "doctor"]) == 1
    assert "source/numbers.txt" in capsys.readouterr().err


def test_the_packages_command_imports_no_dagster() -> None:
    code = "import sys, dagster_dvc.__main__; print([name for name in ('dagster', 'dvc') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_package_can_be_published_alone(root: Path, tmp_path: Path) -> None:
    source, wheels, alone = (tmp_path / name for name in ("source", "wheels", "alone"))
    shutil.copytree(Path(command.__file__).parent, source, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source], check=True)
    [wheel] = wheels.glob("dagster_dvc-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", alone, wheel], check=True)
    code = "import dagster_dvc.__main__ as m, sys; print(m.__file__); sys.exit(m.main(['doctor']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**toy.environment(), "PYTHONPATH": str(alone)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(alone))
