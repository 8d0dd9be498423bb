"""Clips in tars: the same clips as in files, found by every reader, reused, and few tars changed by what is new."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.catalog import TAR_OFFSET, read_catalog
from pipelines.data.stored import read_stored
from pipelines.data.video import read_clip
from pipelines.footage import packing
from pipelines.footage.params import RawVideoParams
from pipelines.latents.clips import Clips
from pipelines.stage import StageError
from tests.footage.footage import folder, run, video
from tests.footage.test_raw_video import rendered


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tars of a few clips."""
    for name, value in {"USUAL": 3, "LEAST": 2, "MOST": 5}.items():
        monkeypatch.setattr(packing, name, value)


def packed(params: RawVideoParams, above: int | None = 3) -> RawVideoParams:
    return params.model_copy(update={"tars_above": above})


def videos(place: Path, names: str) -> Path:
    for name in names:
        video(place / f"{name}.mp4", num_frames=10, seed=ord(name))
    return place


def tars(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "clips/clips").glob("*.tar")}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", ["footage", "rendered"])
def test_clips_in_tars_are_the_clips_that_files_hold(tmp_path: Path, kind: str) -> None:
    params = rendered() if kind == "rendered" else folder(videos(tmp_path / "in", "abcdef"))
    apart, numbers = run(params, tmp_path / "files")
    catalog, packed_numbers = run(packed(params), tmp_path / "tars")
    assert apart.drop(columns="file").equals(catalog.drop(columns=["file", TAR_OFFSET]))
    assert numbers == packed_numbers
    there = {path.name for path in (tmp_path / "tars/clips/clips").iterdir()}
    assert there == {Path(name).name for name in catalog["file"]} and 1 < len(there) < len(catalog)
    clips = Clips(tmp_path / "tars/clips")
    for row, clip in enumerate(apart.to_dict("records")):
        assert np.array_equal(clips.frames(row), read_clip(tmp_path / "files/clips" / clip["file"]))
    held: dict[str, bytes] = {}
    for name in there:
        with tarfile.open(tmp_path / "tars/clips/clips" / name) as tar:
            held |= {str(one.name): stream.read() for one in tar if (stream := tar.extractfile(one)) is not None}
    assert held == {path.name: path.read_bytes() for path in (tmp_path / "files/clips/clips").iterdir()}


@pytest.mark.usefixtures("small")
def test_what_lies_in_tars_is_reused_and_a_new_file_changes_few_of_them(tmp_path: Path) -> None:
    source = videos(tmp_path / "in", "acdefghijklmnop")
    params = packed(folder(source))
    run(params, tmp_path)
    first = tars(tmp_path)
    assert not list((tmp_path / ".work").rglob("clip-*.mp4")), "each clip is kept once, in its tar"
    before, numbers = run(params, tmp_path)
    assert numbers["files_decoded"] == 0 and tars(tmp_path) == first
    videos(source, "b")
    catalog, numbers = run(params, tmp_path)
    assert numbers["files_decoded"] == 1
    changed, added = len(tars(tmp_path).keys() - first.keys()), len(catalog) - len(before)
    assert changed <= 2 * added and changed < len(first), "a new clip falls into one tar, which it may split"
    run(params, tmp_path / "fresh")
    assert tars(tmp_path / "fresh") == tars(tmp_path), "a function of the files, not of their history"
    assert read_catalog(tmp_path / "fresh/clips").equals(catalog)
    kept = {path.name for path in (tmp_path / ".work").rglob("clips-*.tar")}
    assert kept == set(tars(tmp_path)), "what no clip lies in any more is gone"


@pytest.mark.usefixtures("small")
def test_clips_leave_their_tars_where_they_are_few_again(tmp_path: Path) -> None:
    params = folder(videos(tmp_path / "in", "abcdef"))
    run(packed(params), tmp_path)
    catalog, numbers = run(packed(params, above=12), tmp_path)
    assert numbers["files_decoded"] == 0 and TAR_OFFSET not in catalog and not tars(tmp_path)
    expected, _ = run(params, tmp_path / "files")
    for clip in expected.to_dict("records"):
        content = (tmp_path / "clips" / clip["file"]).read_bytes()
        assert content == (tmp_path / "files/clips" / clip["file"]).read_bytes()


@pytest.mark.usefixtures("small")
def test_a_damaged_tar_is_cut_again(tmp_path: Path) -> None:
    params = packed(folder(videos(tmp_path / "in", "abcdef")))
    run(params, tmp_path)
    whole = tars(tmp_path)
    kept = sorted((tmp_path / ".work").rglob("clips-*.tar"))[0]
    content = kept.read_bytes()
    kept.unlink()
    kept.write_bytes(content[:600] + bytes([content[600] ^ 1]) + content[601:])
    _, numbers = run(params, tmp_path)
    assert 0 < numbers["files_decoded"] < 6 and tars(tmp_path) == whole


@pytest.mark.usefixtures("small")
def test_a_tar_that_does_not_hold_the_clip_is_told_with_the_clip(tmp_path: Path) -> None:
    run(packed(rendered(), above=0), tmp_path)
    clips = Clips(tmp_path / "clips")
    key, file = str(clips.catalog["key"].iloc[1]), tmp_path / "clips" / str(clips.catalog["file"].iloc[1])
    file.write_bytes(file.read_bytes()[: int(clips.catalog[TAR_OFFSET].iloc[1]) + 700])
    with pytest.raises(StageError, match=f"{file.name}: clip {key}: .* bytes at byte .*raw_video again"):
        clips.frames(1)
    moved = {**clips.catalog.iloc[0].to_dict(), TAR_OFFSET: 512}
    with pytest.raises(ValueError, match="no member begins at byte 512"):
        read_stored(tmp_path / "clips", moved)
    file.unlink()
    with pytest.raises(StageError, match=f"clip {key}: .*No such file"):
        Clips(tmp_path / "clips").frames(1)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=3000))
def test_tars_hold_all_clips_in_order_and_have_bounded_sizes(numbers: list[int]) -> None:
    rows = [{"content_hash": f"{number:08x}"} for number in numbers]
    found = list(packing.groups(rows))
    assert [row for group in found for row in group] == rows
    assert all(packing.LEAST <= len(group) <= packing.MOST for group in found[:-1])
    assert not found or 0 < len(found[-1]) <= packing.MOST
