"""What is remembered only saves time: where it cannot be read or written, every answer is the same."""

import shutil
from pathlib import Path

import pytest

from dagster_dvc import look, status
from dagster_dvc.project import DvcProject
from dagster_dvc.remembered import keep
from tests.dagster_dvc import toy


@pytest.mark.parametrize("content", [None, "[]", "cut o"])
def test_a_memory_that_cannot_be_used_changes_no_answer(
    content: str | None, reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(reproduced, tmp_path / "project"))
    toy.edit(root, "params.yaml", "amount: 2", "amount: 5")
    known = status.stale(DvcProject(root))
    monkeypatch.setattr("sys.argv", ["look", str(root)])
    assert look.main() == 0 and known
    for file in DvcProject(root).scratch.glob("*.json"):
        file.unlink()
        file.mkdir() if content is None else file.write_text(content)
    assert status.stale(DvcProject(root)) == known and look.main() == 0
    if content is None:
        assert not list(DvcProject(root).scratch.glob("*.partial"))


def test_what_is_kept_is_whole_or_what_it_was(tmp_path: Path) -> None:
    keep(tmp_path / "a/b.json", {"c": 1})
    with pytest.raises(TypeError):
        keep(tmp_path / "a/b.json", {"c": object()})
    assert (tmp_path / "a/b.json").read_text() == '{"c": 1}'
