"""The toy project, made once a process and copied for every test that changes it."""

import shutil
from pathlib import Path

import pytest

from tests.dagster_dvc import toy
from tests.dagster_dvc.edits import Edited, edited_copies


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy project in which every stage has run. Not to be changed."""
    root = toy.make(tmp_path_factory.mktemp("toy"))
    toy.dvc(root, "repro")
    return root


@pytest.fixture(scope="session")
def edited(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Edited]:
    """Copies of the toy project, each with one edit, and what DVC says of each. Not to be changed."""
    return edited_copies(reproduced, tmp_path_factory.mktemp("edited"))


@pytest.fixture
def root(reproduced: Path, tmp_path: Path) -> Path:
    """A copy of the reproduced toy project."""
    return Path(shutil.copytree(reproduced, tmp_path / "project"))
