"""What DVC's cache lists, as long as it names files inside an output and objects of the cache."""

import json
from pathlib import Path

import pytest

from pipelines.recording import cached_files, files_listed

HELD = "0123456789abcdef" * 2
LISTING = "f" * 32 + ".dir"


def place(md5: str) -> Path:
    found = Path(".dvc/cache/files/md5") / md5[:2] / md5[2:]
    found.parent.mkdir(parents=True, exist_ok=True)
    return found


def listed(relpath: str, md5: str) -> dict[str, Path]:
    place(LISTING).write_text(json.dumps([{"relpath": "a/b.txt", "md5": HELD}, {"relpath": relpath, "md5": md5}]))
    return cached_files(LISTING)


def test_a_listing_is_believed_only_where_it_leads_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place(HELD).write_text("content")
    assert cached_files(HELD) == {"": place(HELD)} and set(listed("c.txt", HELD)) == {"a/b.txt", "c.txt"}
    for relpath, md5 in (
        ("../c.txt", HELD),
        ("a/../../c.txt", HELD),
        ("/etc/c.txt", HELD),
        ("c.txt", "../../../etc/passwd"),
        ("c.txt", HELD[:-1]),
        ("c.txt", HELD.upper()),
    ):
        assert listed(relpath, md5) == {}, (relpath, md5)
    for damaged in (
        "",
        "[1]",
        '{"relpath": 1}',
        '[{"relpath": "c.txt"}]',
        "[" * 100_000,
        '[{"relpath": "", "md5": ""}]',
    ):
        place(LISTING).write_text(damaged)
        assert cached_files(LISTING) == {}
        with pytest.raises(ValueError, match=r"DVC's|no file of the output|Expecting"):
            files_listed(damaged)
    (tmp_path / ".dvc/cache/files/md5/..x").mkdir(parents=True)
    assert cached_files("..x") == {} and cached_files("") == {}
