"""DVC's cache in every ``cache.type``: restored as the setting says, and no cached file written through a link."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from pipelines import recording
from tests.test_launch import dvc, project, write_params  # noqa: F401  the fixture of a launched stage


def objects(cache: Path) -> dict[str, str]:
    """md5 of every object, by the name under which DVC knows its content."""
    files = [path for path in (cache / "files/md5").rglob("*") if path.is_file()]
    return {path.parent.name + path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def is_sound(found: dict[str, str]) -> bool:
    return bool(found) and all(name.removesuffix(".dir") == md5 for name, md5 in found.items())


@pytest.mark.costly
@pytest.mark.parametrize("kind", ["copy", "hardlink", "symlink", "reflink,copy", "reflink,hardlink,copy"])
def test_no_cached_file_changes_and_what_is_restored_is_linked_as_the_setting_says(
    project: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
) -> None:
    cache = tmp_path_factory.mktemp("shared")  # of several clones
    dvc(project, "config", "cache.type", kind)
    dvc(project, "config", "cache.dir", str(cache))
    dvc(project, "config", "cache.shared", "group")
    assert dvc(project, "repro").returncode == 0
    before = objects(cache)
    assert is_sound(before)
    clone = Path(shutil.copytree(project, tmp_path_factory.mktemp("clone") / "project", symlinks=True))

    write_params(project, value=2, fails=True)
    assert "back in place" in dvc(project, "repro").stderr
    value = project / "data/toy/value.txt"
    cached = next(path for path in (cache / "files/md5").rglob("*") if path.is_file() and path.read_bytes() == b"1")
    assert value.read_text() == "1" and value.is_symlink() == (kind == "symlink")
    assert value.samefile(cached) == ("hardlink" in kind or kind == "symlink")
    if "link" in kind.replace("reflink", ""):
        assert not value.stat().st_mode & 0o222
    assert objects(cache) == before

    write_params(project, value=3)
    assert dvc(project, "repro").returncode == 0 and value.read_text() == "3"
    write_params(clone, value=4)
    assert dvc(clone, "repro").returncode == 0 and (clone / "data/toy/value.txt").read_text() == "4"
    after = objects(cache)
    assert is_sound(after) and before.items() <= after.items() and len(after) > len(before)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("", ["reflink", "copy"]),
        ("[cache]\ntype = copy\n", ["copy"]),
        ('[cache]\n    type = "reflink,hardlink,copy"\n', ["reflink", "hardlink", "copy"]),
        ("['cache']\n", ["reflink", "copy"]),
    ],
)
def test_the_setting_is_read_as_dvc_writes_it(
    text: str, kinds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(text)
    assert recording.link_types() == kinds
    (tmp_path / ".dvc/config.local").write_text("[cache]\n    type = symlink\n    dir = ../elsewhere\n")
    assert recording.link_types() == ["symlink"] and recording.cache_folder() == Path(".dvc/../elsewhere")


@pytest.mark.parametrize("kinds", [["hardlink"], ["symlink"], ["copy"], ["reflink", "copy"]])
@pytest.mark.parametrize("hard", [True, False])
def test_a_link_that_is_in_the_way_is_replaced_and_not_written_through(
    hard: bool, kinds: list[str], tmp_path: Path
) -> None:
    cached, other, place = (tmp_path / name for name in ("cached", "other", "place"))
    cached.write_text("of the cache")
    other.write_text("another one")
    place.hardlink_to(other) if hard else place.symlink_to(other)
    recording.placed(cached, place, kinds)
    assert (place.read_text(), other.read_text()) == ("of the cache", "another one")
    place.unlink()
    place.hardlink_to(other) if hard else place.symlink_to(other)
    recording.link(cached, place)
    assert (place.read_text(), other.read_text()) == ("of the cache", "another one")


def test_a_setting_that_the_disk_cannot_do_ends_in_a_copy(tmp_path: Path) -> None:
    (tmp_path / "cached").write_text("x")
    recording.placed(tmp_path / "cached", tmp_path / "a/b", ["reflink"])
    assert (tmp_path / "a/b").read_text() == "x" and not (tmp_path / "cached").samefile(tmp_path / "a/b")
