"""A record tells which commit made it, and no other."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipelines.origin import commit


def test_an_archive_inside_another_repository_does_not_claim_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], cwd=tmp_path, check=True)

    project = tmp_path / "project"
    project.mkdir()
    (project / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(project)
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "something else")
    assert commit() == {}
    git("add", "project/dvc.yaml")
    git("commit", "--quiet", "--message", "ours")
    assert len(commit()["commit"]) == 40 and commit()["dirty"] is False
