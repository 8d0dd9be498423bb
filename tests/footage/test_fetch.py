"""Footage under an address comes into the folder once, whole, and again where it changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.footage.fetch import fetch, listed, main
from pipelines.stage import StageError


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that plays the bucket; the project is the current folder."""
    (tmp_path / "bucket" / "day 1").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "bucket"


def test_each_file_moves_once_and_a_changed_one_again(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (there / "day 1" / "a.mp4").write_bytes(b"a" * 1000)
    (there / "b.mp4").write_bytes(b"b" * 24)
    assert main([f"file://{there}", "footage"]) == 0 and main([f"file://{there}", "footage"]) == 0
    (there / "b.mp4").write_bytes(b"B" * 26)
    assert main([f"file://{there}", "footage"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" moved")[0] for line in lines] == [
        "2 new or changed files, 1.0 KiB",
        "0 new or changed files, 0 B",
        "1 new or changed files, 26 B",
    ]
    assert Path("footage/b.mp4").read_bytes() == b"B" * 26 and Path("footage/day 1/a.mp4").stat().st_size == 1000
    assert not list(Path("footage").rglob(".*partial*"))


def test_one_that_a_person_removed_comes_again(there: Path) -> None:
    (there / "a.mp4").write_bytes(b"a")
    known: dict[str, str] = {}
    assert fetch(f"file://{there}", Path("footage"), known) == (["a.mp4"], 1)
    Path("footage/a.mp4").unlink()
    assert fetch(f"file://{there}", Path("footage"), known) == (["a.mp4"], 1)


def test_a_name_that_leads_out_of_the_folder_is_refused() -> None:
    class Files:
        def find(self, root: str, detail: bool) -> dict[str, dict[str, int]]:
            return {f"{root}/../../etc/cron.d/x": {"size": 1}}

    with pytest.raises(StageError, match="leads out of the folder"):
        listed(Files(), "lab/in")


def test_an_address_of_an_unknown_kind_is_told(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ss3://lab/in", "footage"]) == 2
    assert "reel fetch: ss3://lab/in:" in capsys.readouterr().err
