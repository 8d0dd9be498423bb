"""WebDataset tars of videos: from disk and by URL, damaged, out of reach."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import random
import tarfile
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data import stream
from pipelines.data.catalog import read_catalog
from pipelines.data.limits import VideoError
from pipelines.footage import packed_tars
from pipelines.footage.forecast import forecast
from pipelines.footage.params import RawVideoParams
from pipelines.footage.tars import expand, listed_samples, tar_samples
from pipelines.stage import StageError
from tests.footage.footage import footage, refused, run, video


def tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def mp4(tmp_path: Path, seed: int) -> bytes:
    video(tmp_path / "made" / f"{seed}.mp4", seed=seed)
    return (tmp_path / "made" / f"{seed}.mp4").read_bytes()


def tars(urls: list[str], **block: object) -> RawVideoParams:
    return footage("tars", **{"urls": urls, "max_samples": None, **block})


@pytest.mark.costly
def test_tars_are_read_from_disk_and_by_url_with_the_same_keys(tmp_path: Path, server: str) -> None:
    for number in range(2):
        members = {f"a{number}.mp4": mp4(tmp_path, number), f"a{number}.txt": b"from text"}
        members[f"a{number}.bin"] = bytes(6 << 20)  # more than fsspec asks a server for at once; this one has no ranges
        members |= {f"b{number}.json": b'{"prompt": "from json"}', f"b{number}.mp4": mp4(tmp_path, 7 + number)}
        tar(tmp_path / f"t-0{number}.tar", members)
    local, metrics = run(tars([f"{tmp_path}/t-{{00..01}}.tar"]), tmp_path / "local")
    remote, _ = run(tars([f"{server}/t-{{00..01}}.tar?token=secret"]), tmp_path / "remote")
    assert local["source"].drop_duplicates().tolist() == [
        f"t-0{n}.tar/{name}{n}.mp4" for n in range(2) for name in "ab"
    ]
    assert set(local["caption"]) == {"from text", "from json"}
    assert metrics["files_decoded"] == 4 and metrics["num_clips"] == 8
    columns = ["key", "source", "caption", "split"]
    assert remote[columns].equals(local[columns])


def test_samples_that_cannot_be_used_and_tars_that_end_early_are_listed(tmp_path: Path) -> None:
    good, other = mp4(tmp_path, 0), mp4(tmp_path, 1)
    big = bytes((1 << 20) + 1)
    members = {"../../evil.mp4": good, "../../evil.txt": b"a caption", "mute.mp4": other, "words.txt": b"no video"}
    members |= {"bad.mp4": b"hello", "bad.json": b'{"prompt": 3}', "big.mp4": big, "big.txt": b"x", "t.mp4": b"hello"}
    tar(tmp_path / "a.tar", {**members, "t.txt": b"text"})
    tar(tmp_path / "cut.tar", {"x.mp4": other, "x.txt": b"words", "y.mp4": good, "y.txt": b"words"})
    whole = (tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: whole.index(b"y.mp4") + 1024])  # in the second video
    (tmp_path / "none.tar").write_text("hello" * 300)
    names = [str(tmp_path / name) for name in ("a.tar", "cut.tar", "none.tar")]
    catalog, _ = run(tars(names, max_rejected_share=0.9), tmp_path)
    assert set(catalog["source"]) == {"a.tar/../../evil.mp4", "cut.tar/x.mp4"}
    assert refused(tmp_path) == {
        "a.tar/mute.mp4": "no_caption",
        "a.tar/words": "not_video",
        "a.tar/bad.mp4": "bad_caption",
        "a.tar/big.mp4": "too_many_bytes",
        "a.tar/t.mp4": "not_video",
        "cut.tar": "damaged_tar",
        "none.tar": "damaged_tar",
    }
    assert not (tmp_path.parent / "evil.mp4").exists()


def test_a_tar_without_its_end_is_damaged_even_between_members(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"x.mp4": mp4(tmp_path, 0), "x.txt": b"one", "y.mp4": mp4(tmp_path, 1), "y.txt": b"two"})
    whole = (tmp_path / "a.tar").read_bytes()
    at = whole.index(b"y.mp4")
    (tmp_path / "a.tar").write_bytes(whole[:at])
    with pytest.raises(StageError, match=r"damaged_tar +1 +a\.tar: no whole tar after 0 samples"):
        run(tars([str(tmp_path / "a.tar")], max_rejected_share=0.5), tmp_path)


def test_a_tar_that_cannot_be_reached_is_told_in_two_lines_without_its_token(tmp_path: Path, server: str) -> None:
    for url in (f"{server}/none.tar?token=secret", str(tmp_path / "none.tar"), "nothing://x/none.tar"):
        with pytest.raises(StageError, match=r"tars\.urls: .*none\.tar: cannot be read") as caught:
            run(tars([url]), tmp_path)
        assert "secret" not in str(caught.value) and len(str(caught.value).splitlines()) == 2


def test_a_transfer_that_never_ends_leaves_the_earlier_clips(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PAUSE", 0.0)
    tar(tmp_path / "a.tar", {"x.mp4": mp4(tmp_path, 0), "x.txt": b"one", "y.mp4": mp4(tmp_path, 1), "y.txt": b"two"})
    before, _ = run(tars([f"{server}/a.tar"]), tmp_path)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "copyfile", _half)
    with pytest.raises(StageError, match=r"a\.tar: cannot be read: .*4 times\)\.\nCheck the address"):
        run(tars([f"{server}/a.tar"]), tmp_path)
    assert read_catalog(tmp_path / "clips").equals(before)


def _half(self: http.server.SimpleHTTPRequestHandler, source: BinaryIO, outputfile: BinaryIO) -> None:
    content = source.read()
    outputfile.write(content[: len(content) // 2])
    self.close_connection = True


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5119), st.integers(0, 255)), max_size=8), st.integers(0, 10240))
def test_a_damaged_tar_gives_samples_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], end: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "a.tar"
    tar(path, {"a.mp4": b"x" * 700, "a.txt": b"one", "b.mp4": b"y", "b.json": b'{"text": "two"}'})
    content = bytearray(path.read_bytes())
    for place, value in flips:
        content[place] = value
    path.write_bytes(content[:end] if end < 9000 else content)
    block = tars([str(path)]).source.tars
    assert block is not None
    names, spool = [], path.parent / "spool"
    spool.mkdir(exist_ok=True)
    for found in tar_samples(block, 8.0, spool):
        with contextlib.suppress(VideoError):
            names.append(found.name)
            found.told()
            found.digest()
        if found.close is not None:
            found.close()
    assert names and not list(spool.iterdir())


@pytest.mark.costly
def test_the_number_of_samples_is_bounded(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {f"{k}.{end}": part for k in range(3) for end, part in _sample(tmp_path, k)})
    catalog, _ = run(tars([str(tmp_path / "a.tar")], max_samples=2), tmp_path)
    assert catalog["source"].nunique() == 2


def test_new_and_gone_samples_of_tars_are_counted_beforehand(tmp_path: Path) -> None:
    """With the names that the run then gives: also of damaged tars and of samples without a video."""
    video(tmp_path / "made/0.mp4", num_frames=16)
    clip = (tmp_path / "made/0.mp4").read_bytes()
    for name in ("a", "cut"):
        tar(tmp_path / f"{name}.tar", {"x.mp4": clip, "x.txt": b"words", "d/only.txt": b"no video"})
    (tmp_path / "cut.tar").write_bytes((tmp_path / "cut.tar").read_bytes()[: len(clip) // 2])
    far = "https://host/far-{0..2}.tar?token=secret"
    params = tars([str(tmp_path / "a.tar"), str(tmp_path / "cut.tar")], max_rejected_share=0.9)
    run(params, tmp_path)
    assert set(refused(tmp_path)) == {"a.tar/d/only", "cut.tar"}
    nothing = (
        "0 of 3 samples are new by their names, 0 are gone; samples gave 3 clips each so far, so about 0 new clips"
    )
    assert forecast(params, tmp_path / "clips") == nothing
    tar(tmp_path / "a.tar", {"y.json": b'{"text": "words"}', "y.mp4": clip, "z.mp4": clip, "z.txt": b"words"})
    params = tars([str(tmp_path / "a.tar"), far], max_rejected_share=0.9)
    assert forecast(params, tmp_path / "clips") == (
        "2 of 2 samples are new by their names, 3 are gone; samples gave 3 clips each so far, so "
        "about 6 new clips; 3 of 3 tars by URL are new by their names; what they hold is known when they are read"
    )


def names(path: Path, **block: object) -> dict[str, str]:
    """Caption, or reason, by sample of a tar, as they are given one after another."""
    params = tars([str(path)], **block).source.tars
    assert params is not None
    found, spool = {}, path.parent / "spool"
    spool.mkdir(exist_ok=True)
    for one in tar_samples(params, 8.0, spool):
        try:
            told = one.told()
            one.digest()
            found[one.name.removeprefix("a.tar/")] = told.caption
        except VideoError as error:
            found[one.name.removeprefix("a.tar/")] = error.reason
        if one.close is not None:
            one.close()
    assert not list(spool.iterdir())
    if urlsplit(str(path)).scheme == "":
        listed = [name.removeprefix("a.tar/") for name in listed_samples(path)]
        assert list(found) == list(dict.fromkeys(listed))
    return found


TWO = [("clip_12.5_17.0.mp4", b"1"), ("clip_12.5_17.0.txt", b"one"), ("clip_12.5_20.0.mp4", b"2")]
LAYOUTS: list[tuple[list[tuple[str, bytes]], dict[str, str]]] = [
    ([*TWO, ("clip_12.5_20.0.txt", b"two")], {"clip_12.5_17.0.mp4": "one", "clip_12.5_20.0.mp4": "two"}),
    (
        [("v1.0_a.mp4", b"1"), ("v1.0_a.json", b'{"caption": "one"}'), ("v1.0_b.mp4", b"2"), ("v1.0_b.txt", b"two")],
        {"v1.0_a.mp4": "one", "v1.0_b.mp4": "two"},
    ),
    ([("._a.mp4", b"x"), ("a.mp4", b"1"), ("._a.txt", b"\0\5"), ("a.txt", b"one")], {"a.mp4": "one"}),
    ([("__MACOSX/a.mp4", b"x"), (".DS_Store", b"x"), ("a.mp4", b"1"), ("a.txt", b"one")], {"a.mp4": "one"}),
    ([("k.depth.mp4", b"x"), ("k.mp4", b"1"), ("k.negative.txt", b"no"), ("k.txt", b"one")], {"k.mp4": "one"}),
    ([("k.mp4", b"1"), ("k.txt", b"one"), ("k.depth.mp4", b"x"), ("k.negative.txt", b"no")], {"k.mp4": "one"}),
    ([("k.video.mp4", b"1"), ("k.caption.txt", b"one"), ("k.negative.txt", b"no")], {"k.video.mp4": "one"}),
    ([("k.left.mp4", b"1"), ("k.right.mp4", b"2"), ("k.txt", b"one")], {"k": "ambiguous_sample"}),
    (
        [("Mr.Bean_1.mp4", b"1"), ("Mr.Bean_1.txt", b"one"), ("Mr.Bean_2.mp4", b"2"), ("Mr.Bean_2.txt", b"two")],
        {"Mr.Bean_1.mp4": "one", "Mr.Bean_2.mp4": "two"},
    ),
    ([("k.mp4", b"1"), ("k.txt", b""), ("k.json", b'{"caption": "one", "score": 3}')], {"k.mp4": "one"}),
    ([("k.mp4", b"1"), ("k.__json", b'{"caption": "one"}')], {"k.mp4": "one"}),
    ([("k.mp4", b"1"), ("k.mp4.txt", b"")], {"k.mp4": ""}),
    (
        [("a/k.mp4", b"1"), ("a/k.txt", b"one"), ("b/k.mp4", b"2"), ("b/k.txt", b"two")],
        {"a/k.mp4": "one", "b/k.mp4": "two"},
    ),
]


def write(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(("members", "wanted"), LAYOUTS)
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_each_video_gets_its_own_caption_whatever_the_names_and_the_packing(
    tmp_path: Path, members: list[tuple[str, bytes]], wanted: dict[str, str], mode: str
) -> None:
    assert names(write(tmp_path / "a.tar", members, mode)) == wanted


def test_a_name_that_comes_again_is_a_row_and_mixes_with_nothing(tmp_path: Path) -> None:
    members = [("k.mp4", b"1"), ("k.txt", b"one"), ("k.mp4", b"2"), ("k.txt", b"two"), ("l.mp4", b"3"), ("l.txt", b"l")]
    for mode in ("w", "w:gz"):
        params = tars([str(write(tmp_path / "a.tar", members, mode))]).source.tars
        assert params is not None
        (tmp_path / "spool").mkdir(exist_ok=True)
        found = list(tar_samples(params, 8.0, tmp_path / "spool"))
        assert [one.name for one in found] == ["a.tar/k.mp4", "a.tar/k.mp4", "a.tar/l.mp4"]
        assert found[0].told().caption == "one" and found[2].told().caption == "l"
        with pytest.raises(VideoError) as caught:
            found[1].told()
        assert caught.value.reason == "repeated_key"


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_members_sorted_by_type_are_put_together_on_this_disk_whatever_the_packing(tmp_path: Path, mode: str) -> None:
    members = [("a.mp4", b"1"), ("b.mp4", b"2"), ("._a.txt", b"no"), ("a.txt", b"one"), ("b.txt", b"two")]
    assert names(write(tmp_path / "a.tar", members, mode)) == {"a.mp4": "one", "b.mp4": "two"}
    assert not list((tmp_path / "spool").iterdir())


def test_a_compressed_tar_sorted_by_type_that_ends_early_gives_what_is_whole(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(100_000)
    members = [("a.mp4", b"1"), ("b.mp4", b"2"), ("a.txt", b"one"), ("b.txt", b"two"), ("c.mp4", noise)]
    path = write(tmp_path / "a.tar", members, "w:gz")
    path.write_bytes(path.read_bytes()[:-60_000])
    assert names(path) == {"a.mp4": "one", "b.mp4": "two", "a.tar": "damaged_tar"}


@pytest.mark.parametrize("way", ["distant", "larger than allowed"])
def test_members_sorted_by_type_are_told_where_they_are_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    members = [("a.mp4", b"1"), ("b.mp4", b"2"), ("a.txt", b"one"), ("b.txt", b"two")]
    path = write(tmp_path / "a.tar", members, "w:gz")
    (tmp_path / "spool").mkdir()
    if way == "larger than allowed":
        monkeypatch.setattr(packed_tars, "FREE_SHARE", 0.0)
    params = tars([path.as_uri() if way == "distant" else str(path)]).source.tars
    assert params is not None
    reasons = []
    for one in tar_samples(params, 8.0, tmp_path / "spool"):
        try:
            reasons.append(one.told().caption)
        except VideoError as error:
            reasons.append(f"{error.reason}: {error}")
        assert one.close is not None
        one.close()
    assert reasons[:2] == ["", ""]
    assert all("unsorted_tar" in one and "tar --sort=name" in one for one in reasons[2:]) and len(reasons) == 4


def test_a_compressed_tar_that_ends_early_is_damaged_and_zstd_names_its_remedy(tmp_path: Path) -> None:
    for mode in ("w:gz", "w:bz2", "w:xz"):
        noise = random.Random(0).randbytes(100_000)
        path = write(tmp_path / "a.tar", [("a.mp4", noise), ("a.txt", b"one"), ("b.mp4", noise[::-1])], mode)
        path.write_bytes(path.read_bytes()[:-60_000])
        assert list(names(path).values())[-1] == "damaged_tar"
    (tmp_path / "a.tar").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    params = tars([str(tmp_path / "a.tar")]).source.tars
    assert params is not None
    (found,) = tar_samples(params, 8.0, tmp_path / "spool")
    with pytest.raises(VideoError, match="zstd -d"):
        found.told()


def test_failed_downloads_are_counted_apart_and_the_rest_of_the_json_is_kept(tmp_path: Path) -> None:
    """As video2dataset writes them: a failed sample has its text and its json, and no video."""
    failed = {
        "url": "https://x/1",
        "status": "failed_to_download",
        "error_message": "Video unavailable",
        "caption": "a",
    }
    fine = {"url": "https://x/2", "status": "success", "error_message": None, "caption": "a cat", "clips": [[0, 2.5]]}
    members = {"000.txt": b"a", "000.json": json.dumps(failed).encode()}
    for number in (1, 2, 3):
        members |= {f"00{number}.mp4": mp4(tmp_path, number), f"00{number}.txt": b"a cat"}
        members[f"00{number}.json"] = json.dumps(fine).encode()
    tar(tmp_path / "a.tar", members)
    catalog, metrics = run(tars([str(tmp_path / "a.tar")], max_rejected_share=0.0), tmp_path)
    assert metrics["num_rejected"] == 0 and metrics["not_used"] == {"not_downloaded": 1}
    assert refused(tmp_path) == {"a.tar/000": "not_downloaded"}
    kept = {"url": "https://x/2", "status": "success", "clips": [[0, 2.5]]}
    assert all(json.loads(one) == kept for one in catalog["metadata"])


def _sample(tmp_path: Path, number: int) -> list[tuple[str, bytes]]:
    return [("mp4", mp4(tmp_path, number)), ("txt", b"words")]


def test_counted_names_are_expanded() -> None:
    assert expand(["a-{08..10}-{0..1}.tar", "b.tar"]) == [
        *[f"a-{n}-{m}.tar" for n in ("08", "09", "10") for m in (0, 1)],
        "b.tar",
    ]
    with pytest.raises(StageError, match="counts down"):
        expand(["{3..1}.tar"])
