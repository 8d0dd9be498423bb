"""Which project `reel` and the code location work on: the one around the current folder, with its own code."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dagster_dvc.project import ProjectError
from dagster_project import cli, home
from tests.dagster_dvc import toy

REPO = Path(__file__).parents[2]
REEL = "import sys; from dagster_project.cli import main; sys.exit(main())"
"""What the installed command `reel` does; the environment's own checkout is found behind PYTHONPATH."""


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REEL_PROJECT", raising=False)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


def python(folder: Path, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A second clone whose code differs, used with the environment of the first."""
    root = tmp_path / "clone"
    for package in ("dagster_project", "dagster_dvc", "assets", "pipelines"):
        shutil.copytree(REPO / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(REPO / name, root / name)
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    (root / "sub/deep").mkdir(parents=True)
    toy.edit(root, "dagster_dvc/status.py", '"never run"', '"never run in the clone"')
    return root


def test_the_project_is_the_nearest_folder_upwards_with_a_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project/part/deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project/part/deep")
    with pytest.raises(ProjectError, match=r"no dvc\.yaml here or in a folder above; change to"):
        home.project_root()
    (tmp_path / "project/dvc.yaml").touch()
    assert home.project_root() == tmp_path / "project"
    (tmp_path / "project/.dvc").mkdir()
    (tmp_path / "project/part/dvc.yaml").touch()  # a nested pipeline file of the same DVC project
    assert home.project_root() == tmp_path / "project"
    (tmp_path / "project/part/.dvc").mkdir()
    assert home.project_root() == tmp_path / "project/part"
    monkeypatch.setenv("REEL_PROJECT", str(tmp_path))
    assert home.project_root() == tmp_path


@pytest.mark.costly
def test_reel_works_in_a_second_clone_with_its_own_code_and_says_so(clone: Path) -> None:
    done = python(clone / "sub/deep", REEL, "status")
    assert done.returncode == 0, done.stderr
    assert "never run in the clone" in done.stdout
    assert done.stderr == f"reel: works on {clone} with its own code (the environment is of {REPO})\n"
    assert (clone / ".dvc/tmp/dagster_dvc/manifest.json").is_file()


@pytest.mark.costly
def test_reel_tells_whose_code_works_on_a_project_that_has_none(tmp_path: Path) -> None:
    root = toy.make(tmp_path / "toy")
    done = python(root, REEL, "status")
    assert done.returncode == 0 and "never run" in done.stdout
    assert done.stderr == f"reel: works on {root}, with the code of {REPO}\n"


def test_in_its_own_checkout_reel_says_nothing_of_it() -> None:
    done = python(REPO / "docs", REEL, "plan", "no_such_stage")
    assert done.returncode == 1 and done.stderr.startswith("nothing in dvc.yaml is selected by 'no_such_stage'")


@pytest.mark.parametrize("words", [("status",), ("run", "--all"), ("gc",), ("ui",)])
def test_without_a_project_reel_refuses_in_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = python(tmp_path, REEL, *words)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"{tmp_path}: no dvc.yaml here or in a folder above; change to a project's folder first\n"
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_project(tmp_path: Path) -> None:
    assert python(tmp_path, REEL, "run", "--help").stdout.startswith("usage: reel run")


def test_what_reel_help_does_not_need_is_not_imported(tmp_path: Path) -> None:
    idle = {"dataclasses", "datetime", "hashlib", "importlib.util", "json", "socket", "subprocess", "yaml"}
    code = (
        f"import sys; before = {{*sys.modules}}; import dagster_project.cli; print({idle} & {{*sys.modules}} - before)"
    )
    assert python(tmp_path, code).stdout == "set()\n"


def _parsers(word: str) -> dict[str, argparse.ArgumentParser]:
    [action] = [one for one in cli._parser(word)._actions if isinstance(one, argparse._SubParsersAction)]
    return action.choices


@pytest.mark.parametrize("name", cli._commands())
def test_a_command_alone_is_parsed_as_among_all(name: str) -> None:
    alone = _parsers(name)
    assert list(alone) == [name] and alone[name].format_help() == _parsers("")[name].format_help()


@pytest.mark.costly
def test_the_code_location_is_of_the_project_around_the_current_folder(tmp_path: Path) -> None:
    root = toy.make(tmp_path / "toy")
    keys = "print(sorted(key.to_user_string() for key in d.defs.get_repository_def().asset_graph.get_all_asset_keys()))"
    done = python(root, f"import dagster_project.definitions as d; {keys}")
    assert done.returncode == 0, done.stderr
    assert "'train'" in done.stdout and f"works on {root}, with the code of {REPO}" in done.stderr


@pytest.mark.parametrize(
    ("text", "is_told"),
    [
        ("run_monitoring:\n  enabled: true\n", True),
        ("run_monitoring: {enabled: true, poll_interval_seconds: 10}\n", True),
        (home.INSTANCE, False),
        ("run_monitoring: {enabled: true, cancel_timeout_seconds: 900}\n", False),
        ("run_monitoring: {enabled: false}\n", False),
        ("telemetry: {enabled: false}\n", False),
        ("", False),
        ("[1, 2\n", False),
        ("- a list\n", False),
    ],
)
def test_a_dagster_yaml_of_an_earlier_version_is_told_with_what_to_add(
    tmp_path: Path, text: str, is_told: bool
) -> None:
    (tmp_path / "dagster.yaml").write_text(text)
    told = home.lacking(tmp_path)
    assert (told is not None) == is_told
    assert not told or ("add `cancel_timeout_seconds: 3600`" in told and str(tmp_path) in told)
