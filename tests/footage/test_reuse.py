"""Captions of every kind; only new files are decoded, and names decide nothing."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from pipelines.data.catalog import read_decisions
from pipelines.footage import digests
from pipelines.footage.captions import with_prefix
from pipelines.footage.forecast import forecast
from pipelines.stage import StageError, file_digest
from tests.footage.footage import CUTTING, LIMITS, QUALITY, folder, refused, run, video


def test_a_prefix_is_joined_by_a_full_stop(tmp_path: Path) -> None:
    assert with_prefix("style anime", "a girl running") == "style anime. a girl running"
    assert with_prefix("style anime.", "x") == "style anime. x"
    assert with_prefix(None, "x") == "x" and with_prefix("style", "") == "style"
    for number in range(2):
        video(tmp_path / f"in/{number}.mp4", seed=number)
    catalog, _ = run(folder(tmp_path / "in", prompt_prefix="on film"), tmp_path)
    assert set(catalog["caption"]) == {"on film. a thing"}


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", b"{oops"), ("a.json", b"[1]"), ("a.json", b"[" * 100_000), ("a.txt", b"\xff\xfea"), ("a.json", b"{}")],
)
def test_a_broken_sidecar_is_a_reason_and_not_the_end(tmp_path: Path, name: str, content: bytes) -> None:
    video(tmp_path / "in/a.mp4", caption=None)
    video(tmp_path / "in/b.mp4", num_frames=16, seed=1)
    (tmp_path / "in" / name).write_bytes(content)
    run(folder(tmp_path / "in", max_rejected_share=0.5), tmp_path)
    assert refused(tmp_path) == {"a.mp4": "bad_caption"}


def test_without_the_rule_clips_need_no_caption(tmp_path: Path) -> None:
    for number in range(2):
        video(tmp_path / f"in/{number}.mp4", seed=number, caption=None)
    catalog, _ = run(folder(tmp_path / "in", quality={**QUALITY, "caption": None}), tmp_path)
    assert set(catalog["caption"]) == {""}


@pytest.mark.costly
def test_only_new_files_are_decoded_and_a_caption_or_a_name_is_nothing_new(tmp_path: Path) -> None:
    for number in range(3):
        video(tmp_path / f"in/{number}.mp4", seed=number)
    first, metrics = run(folder(tmp_path / "in"), tmp_path)
    assert metrics["files_decoded"] == 3
    stored = {path.name: path.read_bytes() for path in (tmp_path / "clips/clips").iterdir()}
    (tmp_path / "in/0.txt").write_text("another caption")
    (tmp_path / "in/1.mp4").rename(tmp_path / "in/one.mp4")
    (tmp_path / "in/1.txt").rename(tmp_path / "in/one.txt")
    video(tmp_path / "in/new.mp4", seed=9)
    second, metrics = run(folder(tmp_path / "in"), tmp_path)
    assert metrics["files_decoded"] == 1
    assert set(first["key"]) < set(second["key"]) and "another caption" in set(second["caption"])
    for name, content in stored.items():
        assert (tmp_path / "clips/clips" / name).read_bytes() == content
    (tmp_path / "in/new.mp4").unlink()
    third, metrics = run(folder(tmp_path / "in"), tmp_path)
    assert set(third["key"]) == set(first["key"]) and metrics["files_decoded"] == 0


@pytest.mark.costly
def test_reused_clips_equal_those_of_a_fresh_run(tmp_path: Path) -> None:
    for number in range(2):
        video(tmp_path / f"in/{number}.mp4", seed=number)
    run(folder(tmp_path / "in"), tmp_path / "one")
    run(folder(tmp_path / "in"), tmp_path / "one")
    run(folder(tmp_path / "in"), tmp_path / "two")
    one, two = (sorted((tmp_path / name / "clips").rglob("*.*")) for name in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


@pytest.mark.costly
def test_other_parameters_and_damage_in_the_kept_clips_decode_again(tmp_path: Path) -> None:
    for number in range(3):
        video(tmp_path / f"in/{number}.mp4", seed=number)
    run(folder(tmp_path / "in"), tmp_path)
    kept = next((tmp_path / ".work").rglob("*.mp4"))
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    _, metrics = run(folder(tmp_path / "in"), tmp_path)
    assert metrics["files_decoded"] == 1
    _, metrics = run(folder(tmp_path / "in", cutting={**CUTTING, "stride": 0.5}), tmp_path)
    assert metrics["files_decoded"] == 3
    motion = {**QUALITY, "motion": {"min_change": 0.1, "max_change": None}}
    _, metrics = run(folder(tmp_path / "in", cutting={**CUTTING, "stride": 0.5}, quality=motion), tmp_path)
    assert metrics["files_decoded"] == 0


@pytest.mark.costly
def test_a_refusal_is_remembered_until_its_limit_moves(tmp_path: Path) -> None:
    video(tmp_path / "in/a.mp4", num_frames=16)
    video(tmp_path / "in/long.mp4", num_frames=40, seed=1)
    tight = {**LIMITS, "max_frames": 30}
    _, metrics = run(folder(tmp_path / "in", limits=tight, max_rejected_share=0.5), tmp_path)
    assert metrics["rejected"] == {"too_long": 1} and metrics["files_decoded"] == 2
    _, metrics = run(folder(tmp_path / "in", limits=tight, max_rejected_share=0.5), tmp_path)
    assert metrics["rejected"] == {"too_long": 1} and metrics["files_decoded"] == 0
    _, metrics = run(folder(tmp_path / "in"), tmp_path)
    assert metrics["rejected"] == {} and metrics["files_decoded"] == 2


@pytest.mark.costly
def test_kept_and_refused_clips_stand_side_by_side_in_the_decisions(tmp_path: Path) -> None:
    video(tmp_path / "in/a.mp4")
    video(tmp_path / "in/again.mkv.mp4", frame_rate=8.01)
    video(tmp_path / "in/b.mp4", seed=3)
    catalog, metrics = run(folder(tmp_path / "in", quality={**QUALITY, "duplicate": {"max_bits": 10}}), tmp_path)
    decisions = read_decisions(tmp_path / "clips")
    assert len(decisions) == 6 and decisions["kept"].sum() == len(catalog) == metrics["num_clips"]
    assert metrics["clips_refused_by"] == {"motion": 0, "sharpness": 0, "duplicate": 2, "caption": 0, "split": 0}
    gone = decisions[~decisions["kept"]]
    assert set(gone["duplicate_of"]) <= set(catalog["key"]) and set(gone["duplicate_decision"]) == {"refused"}
    assert {path.stem for path in (tmp_path / "clips/clips").iterdir()} == set(catalog["key"])
    with pytest.raises(StageError, match=r"quality: refused all 6 clips \(motion 6\)"):
        run(folder(tmp_path / "in", quality={**QUALITY, "motion": {"min_change": 200.0, "max_change": None}}), tmp_path)


def test_new_and_gone_files_are_counted_beforehand(tmp_path: Path) -> None:
    params = folder(tmp_path / "films", max_rejected_share=0.5)
    for number in range(3):
        video(tmp_path / f"films/{number}.mp4", seed=number)
    video(tmp_path / "films/short.mp4", num_frames=2, seed=9)
    with pytest.raises(StageError, match="no such file"):
        forecast(params, tmp_path / "clips")
    run(params, tmp_path)
    assert forecast(params, tmp_path / "clips") == (
        "0 of 4 files are new by their names, 0 are gone; files gave 2 clips each so far, so about 0 new clips"
    )
    (tmp_path / "films/0.mp4").unlink()
    video(tmp_path / "films/new.mp4", seed=5)
    assert forecast(params, tmp_path / "clips") == (
        "1 of 4 files are new by their names, 1 are gone; files gave 2 clips each so far, so about 2 new clips"
    )


@pytest.mark.costly
def test_a_run_without_news_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        video(tmp_path / f"in/{number}.mp4", seed=number)
        _age(tmp_path / f"in/{number}.mp4")
    catalog, first = run(folder(tmp_path / "in"), tmp_path)
    for clip in (tmp_path / ".work").rglob("clip-*.mp4"):
        _age(clip)
    run(folder(tmp_path / "in"), tmp_path)
    read: list[Path] = []

    def watched(path: Path) -> str:
        read.append(path)
        return file_digest(path)

    monkeypatch.setattr(digests, "file_digest", watched)
    again, metrics = run(folder(tmp_path / "in"), tmp_path)
    assert read == [] and metrics["files_decoded"] == 0 and first["files_decoded"] == 4
    assert again["content_hash"].tolist() == catalog["content_hash"].tolist()
    video(tmp_path / "in/2.mp4", seed=9)
    run(folder(tmp_path / "in"), tmp_path)
    assert [path.name for path in read] == ["2.mp4"]


def test_a_hash_is_remembered_of_what_did_not_change_and_was_not_just_changed(tmp_path: Path) -> None:
    path, kept = tmp_path / "a", tmp_path / "digests.json"
    path.write_bytes(b"one")
    just = digests.Digests(kept)
    assert just.of(path) == file_digest(path)
    just.keep(finished=True)
    assert not kept.exists()
    _age(path)
    for content in (b"one", b"two"):
        path.write_bytes(content)
        _age(path, 100 if content == b"one" else 90)
        known = digests.Digests(kept)
        assert known.of(path) == file_digest(path)
        known.keep(finished=True)
    assert list(json.loads(kept.read_text())) == [str(path)]
    for content in ("{", "[1]", '{"a": 3}', '{"a": [1]}', ""):
        kept.write_text(content)
        assert digests.Digests(kept).of(path) == file_digest(path)


def _age(path: Path, seconds: float = 100.0) -> None:
    """Let a file have changed so long ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))
