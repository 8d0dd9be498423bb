"""Footage under an address comes into the folder once, whole, and again if it changed; S3 is in `make cluster-test`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipelines.footage import fetch
from pipelines.footage.fetch import Fetch, listed, main
from pipelines.stage import StageError


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that plays the bucket; the project is the current folder."""
    (tmp_path / "bucket" / "day 1").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv(fetch.URL, raising=False)
    monkeypatch.setattr(fetch, "PAUSE", 0.0)
    return tmp_path / "bucket"


class Broken(Exception):
    """As a process that is killed: nobody catches it."""


def breaks_after(count: int, reason: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address gives so many pieces, and then this."""
    real, left = fsspec.filesystem("file").cat_file, [count]

    def piece(*words: Any, **more: Any) -> bytes:
        left[0] -= 1
        if left[0] < 0:
            raise reason
        return real(*words, **more)

    monkeypatch.setattr(type(fsspec.filesystem("file")), "cat_file", lambda self, *words, **more: piece(*words, **more))


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
    for _ in range(2):
        one = Fetch(f"file://{there}", Path("footage"), known)
        one.run()
        assert (one.new, one.moved) == (["a.mp4"], 1)
        Path("footage/a.mp4").unlink()


def test_a_killed_fetch_goes_on_in_the_middle_of_the_file(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(100))
    (there / "a.mp4").write_bytes(content)
    (there / "b.mp4").write_bytes(content)
    monkeypatch.setattr(fetch, "PIECE", 30)
    monkeypatch.setattr(fetch, "NOTE_SECONDS", 0.0)
    with monkeypatch.context() as cut:
        breaks_after(6, Broken(), cut)
        with pytest.raises(Broken):
            Fetch(f"file://{there}", Path("footage"), {}).run()
    assert Path("footage/a.mp4").read_bytes() == content and not Path("footage/b.mp4").exists()
    again = Fetch(f"file://{there}", Path("footage"), json.loads(fetch.NOTE.read_text()))
    again.run()
    assert Path("footage/b.mp4").read_bytes() == content
    assert (again.new, again.moved, again.kept) == (["b.mp4"], 40, 60)
    assert not list(Path("footage").glob(".*"))


def test_what_came_of_other_content_is_no_part_of_the_file(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (there / "a.mp4").write_bytes(b"a" * 100)
    monkeypatch.setattr(fetch, "PIECE", 30)
    with monkeypatch.context() as cut:
        breaks_after(2, Broken(), cut)
        with pytest.raises(Broken):
            Fetch(f"file://{there}", Path("footage"), {}).run()
    (there / "a.mp4").write_bytes(b"b" * 90)
    again = Fetch(f"file://{there}", Path("footage"), {})
    again.run()
    assert Path("footage/a.mp4").read_bytes() == b"b" * 90 and again.moved == 90


def test_an_address_that_stops_answering_is_told_with_what_was_moved(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (there / "a.mp4").write_bytes(b"a" * 100)
    monkeypatch.setattr(fetch, "PIECE", 30)
    breaks_after(2, OSError("connection reset"), monkeypatch)
    assert main([f"file://{there}", "footage"]) == 2
    said = capsys.readouterr()
    assert "60 B moved" in said.out and "connection reset. What has arrived is kept; run it again." in said.err


def test_a_file_that_is_being_written_there_waits_for_the_next_look_and_stops_no_other(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (there / "a.mp4").write_bytes(b"a" * 10)
    (there / "b.mp4").write_bytes(b"b" * 10)
    files = fsspec.filesystem("file")
    real = files.cat_file

    def grows(self: Any, path: str, **more: Any) -> bytes:
        if path.endswith("a.mp4"):
            Path(path).write_bytes(Path(path).read_bytes() + b"a")
        return real(path, **more)

    monkeypatch.setattr(type(files), "cat_file", grows)
    assert main([f"file://{there}", "footage"]) == 0
    assert "1 new or changed files" in (said := capsys.readouterr().out) and "still being written there: a.mp4" in said
    assert [path.name for path in Path("footage").iterdir()] == ["b.mp4"]


def test_address_and_folder_are_the_machines_and_the_sources_where_none_is_said(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (there / "a.mp4").write_bytes(b"a")
    assert main([]) == 2 and f"set {fetch.URL}" in capsys.readouterr().err
    monkeypatch.setenv(fetch.URL, f"file://{there}")
    Path("params.yaml").write_text("raw_video: {source: {rendered: {count: 3}, folder: null}}\n")
    assert main([]) == 2 and "raw_video.source names no folder" in capsys.readouterr().err
    Path("params.yaml").write_text("raw_video: {source: {folder: {path: videos}}}\n")
    assert main([]) == 0 and Path("videos/a.mp4").read_bytes() == b"a"


def test_a_name_that_leads_out_of_the_folder_is_refused() -> None:
    class Files:
        def find(self, root: str, detail: bool) -> dict[str, dict[str, int]]:
            return {f"{root}/../../etc/cron.d/x": {"size": 1}}

    with pytest.raises(StageError, match="leads out of the folder"):
        listed(Files(), "lab/in")


def test_an_address_below_which_nothing_lies_says_so(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"file://{there}/els", "footage"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("/els: no file is there")


def test_an_address_of_an_unknown_kind_is_told(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ss3://lab/in", "footage"]) == 2
    assert "reel fetch: ss3://lab/in:" in capsys.readouterr().err
