"""Sources of files: tars, pictures, recordings; only new files are decoded; names decide nothing."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.data.catalog import read_decisions
from pipelines.data.limits import Limits, VideoError
from pipelines.data.video import read_clip
from pipelines.footage.captions import caption_in, captions_from_file, with_prefix
from pipelines.footage.params import RawVideoParams
from pipelines.footage.stills import read_picture
from pipelines.footage.tars import expand, tar_samples
from pipelines.stage import StageError
from tests.footage.footage import CLIP, CUTTING, LIMITS, QUALITY, folder, footage, frames, refused, run, video


def picture(path: Path, size: tuple[int, int] = (48, 64), level: int = 90, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), level, np.uint8)
    pixels[: size[0] // 2, : size[1] // 2] = (220, 30, 30)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    path.with_suffix(".txt").write_text("a still thing")


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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{web.server_address[1]}"
        web.shutdown()
        thread.join()


# ---- tars ---------------------------------------------------------------------------------------------------------


def test_tars_are_read_from_disk_and_by_url_with_the_same_keys(tmp_path: Path, server: str) -> None:
    for number in range(2):
        members = {f"a{number}.mp4": mp4(tmp_path, number), f"a{number}.txt": b"from text"}
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
    (tmp_path / "cut.tar").write_bytes(whole[: 512 * (len(whole) // 512 - 30)].rstrip(b"\0"))
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
    names = []
    for found in tar_samples(block, 8.0):
        with contextlib.suppress(VideoError):
            names.append(found.name)
            found.caption()
            found.digest()
    assert names


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["png", "jpeg", "webp", "bmp", "tiff"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
    st.floats(0, 1),
)
def test_a_damaged_picture_is_read_or_has_a_reason(
    tmp_path_factory: pytest.TempPathFactory, kind: str, flips: list[tuple[float, int]], end: float
) -> None:
    stream = io.BytesIO()
    Image.fromarray(frames(1)[0]).save(stream, format=kind)
    content = bytearray(stream.getvalue())
    for place, value in flips:
        content[int(place * len(content))] = value
    path = tmp_path_factory.getbasetemp() / f"a.{kind}"
    path.write_bytes(content[: round(end * len(content))] if end < 0.9 else content)
    try:
        assert read_picture(path, Limits(max_pixels=100_000)).cover(32, 32).shape == (32, 32, 3)
    except VideoError as error:
        assert error.reason and str(error)


def test_the_number_of_samples_is_bounded(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {f"{k}.{end}": part for k in range(3) for end, part in _sample(tmp_path, k)})
    catalog, _ = run(tars([str(tmp_path / "a.tar")], max_samples=2), tmp_path)
    assert catalog["source"].nunique() == 2


def _sample(tmp_path: Path, number: int) -> list[tuple[str, bytes]]:
    return [("mp4", mp4(tmp_path, number)), ("txt", b"words")]


def test_counted_names_are_expanded() -> None:
    assert expand(["a-{08..10}-{0..1}.tar", "b.tar"]) == [
        *[f"a-{n}-{m}.tar" for n in ("08", "09", "10") for m in (0, 1)],
        "b.tar",
    ]
    with pytest.raises(StageError, match="counts down"):
        expand(["{3..1}.tar"])


# ---- pictures -----------------------------------------------------------------------------------------------------


def test_pictures_are_clips_of_one_frame_beside_videos(tmp_path: Path) -> None:
    picture(tmp_path / "in/wide.jpg", quality=95)
    picture(tmp_path / "in/upright.jpg", quality=95, exif=_turned())
    picture(tmp_path / "in/odd.png", (51, 33))
    video(tmp_path / "in/film.mp4")
    glass = np.zeros((40, 40, 4), np.uint8)
    glass[:, :20] = (255, 255, 255, 255)
    glass[:, 20:] = (255, 255, 255, 0)
    Image.fromarray(glass).save(tmp_path / "in/glass.png")
    (tmp_path / "in/glass.txt").write_text("a pane")
    buckets = {"fold": 4, "sizes": [[1, 32, 32], [1, 32, 48], [1, 48, 32], [5, 32, 32]]}
    cutting = {**CUTTING, "buckets": buckets}
    catalog, _ = run(folder(tmp_path / "in", media="both", cutting=cutting), tmp_path)
    shapes = catalog.set_index("source")[["num_frames", "height", "width"]].apply(tuple, axis=1).to_dict()
    assert shapes == {
        "film.mp4": (5, 32, 32),
        "glass.png": (1, 32, 32),
        "odd.png": (1, 48, 32),
        "upright.jpg": (1, 48, 32),
        "wide.jpg": (1, 32, 48),
    }
    stored = {row["source"]: read_clip(tmp_path / "clips" / row["file"])[0] for row in catalog.to_dict("records")}
    assert stored["glass.png"][:, :14].mean() > 245 and stored["glass.png"][:, 18:].mean() < 10
    assert stored["upright.jpg"][4, -4, 0] > 190  # a quarter turn clockwise: what was at the left is on top
    assert catalog["quality_motion"][catalog["num_frames"] == 1].isna().all()


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_broken_pictures_are_listed(tmp_path: Path) -> None:
    picture(tmp_path / "in/good.png")
    picture(tmp_path / "in/other.png", level=10)
    picture(tmp_path / "in/huge.png", (400, 300))
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "in/cut.jpg")
    (tmp_path / "in/cut.jpg").write_bytes((tmp_path / "in/cut.jpg").read_bytes()[:5000])
    (tmp_path / "in/text.png").write_text("hello")
    (tmp_path / "in/empty.webp").touch()
    for name in ("cut", "text", "empty"):
        (tmp_path / f"in/{name}.txt").write_text("x")
    one = {**CLIP, "num_frames": 1}
    block = {"path": str(tmp_path / "in"), "media": "images", "captions": None, "max_rejected_share": 0.9}
    catalog, _ = run(footage("folder", clip=one, **block), tmp_path)
    assert set(catalog["source"]) == {"good.png", "other.png"}
    reasons = {"huge.png": "too_large", "cut.jpg": "truncated", "text.png": "not_image", "empty.webp": "not_image"}
    assert refused(tmp_path) == reasons


def test_pictures_without_a_form_of_one_frame_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs a form of one frame"):
        folder(tmp_path, media="images")


# ---- recordings ---------------------------------------------------------------------------------------------------


def record(path: Path, num_frames: int, log: str, seed: int = 0, without: tuple[int, ...] = ()) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(frames(num_frames, seed)):
        if number not in without:
            Image.fromarray(pixels).save(path / f"frame_{number:04d}.png")
    (path / "input.csv").write_text(log)
    path.with_name(path.name + ".txt").write_text("a game")


def recordings(path: Path, **block: object) -> RawVideoParams:
    known = {"path": str(path), "frame_rate": 16.0, "action_log": "input.csv", "captions": None}
    return footage("recordings", **{**known, **block})


LOG = "key,time,frame\nW,0.0,0\nW,0.06,1\nd,0.06,1\nW,0.12,2\nspace,0.1,2\nA,0.5,9\n"


def test_a_recording_gives_clips_with_the_keys_that_led_to_each_frame(tmp_path: Path) -> None:
    record(tmp_path / "in/run 1", 22, LOG)
    catalog, _ = run(recordings(tmp_path / "in"), tmp_path)
    assert catalog["source"].tolist() == ["run 1"] * 2 and set(catalog["caption"]) == {"a game"}
    held = np.stack(list(catalog["actions"][0]))
    wanted = np.zeros((5, 6))
    wanted[0, 0] = wanted[1, 0] = wanted[1, 3] = (
        1  # frame 2 of the recording is frame 1 of the clip: 1 and 2 lead there
    )
    assert (held == wanted).all()
    assert np.stack(list(catalog["actions"][1]))[0].sum() == 0
    levels = read_clip(tmp_path / "clips" / str(catalog["file"][0]))[..., 0].mean((1, 2))
    assert levels == pytest.approx(35 + 200 * np.arange(0, 10, 2) / 22, abs=5)


def test_a_recording_that_grows_keeps_its_clips_and_another_log_makes_others(tmp_path: Path) -> None:
    record(tmp_path / "in/a", 22, LOG)
    record(tmp_path / "in/b", 22, LOG, seed=1)
    before, _ = run(recordings(tmp_path / "in"), tmp_path)
    for number, pixels in enumerate(frames(22, seed=5)):
        Image.fromarray(pixels).save(tmp_path / f"in/b/frame_{22 + number:04d}.png")
    after, metrics = run(recordings(tmp_path / "in"), tmp_path)
    keyed = [dict(zip(one["key"], one["split"], strict=True)) for one in (before, after)]
    assert keyed[0].items() <= keyed[1].items() and len(after) == len(before) + 2
    assert metrics["files_decoded"] == 1
    (tmp_path / "in/a/input.csv").write_text(LOG.replace("W,0.0,0", "S,0.0,0"))
    other, _ = run(recordings(tmp_path / "in"), tmp_path)
    assert len(set(other["key"]) & set(after["key"])) == len(after) - 1


def test_missing_frames_are_cut_around_and_broken_logs_are_listed(tmp_path: Path) -> None:
    record(tmp_path / "in/gap", 34, LOG, without=tuple(range(11, 16)))
    record(tmp_path / "in/log", 12, "key,time,frame\nW,zero,0\n", seed=1)
    record(tmp_path / "in/nolog", 12, LOG, seed=2)
    (tmp_path / "in/nolog/input.csv").unlink()
    record(tmp_path / "in/twice", 12, LOG, seed=3)
    (tmp_path / "in/twice/frame_00003.png").write_bytes((tmp_path / "in/twice/frame_0003.png").read_bytes())
    catalog, _ = run(recordings(tmp_path / "in", max_rejected_share=0.8), tmp_path)
    assert catalog["source"].tolist() == ["gap"] * 3 and catalog["start_seconds"].tolist() == [0.0, 1.0, 1.625]
    assert refused(tmp_path) == {"log": "bad_action_log", "nolog": "no_action_log", "twice": "bad_frames"}


# ---- captions -----------------------------------------------------------------------------------------------------


def test_a_prefix_is_joined_by_a_full_stop(tmp_path: Path) -> None:
    assert with_prefix("style anime", "a girl running") == "style anime. a girl running"
    assert with_prefix("style anime.", "x") == "style anime. x"
    assert with_prefix(None, "x") == "x" and with_prefix("style", "") == "style"
    for number in range(2):
        video(tmp_path / f"in/{number}.mp4", seed=number)
    catalog, _ = run(folder(tmp_path / "in", prompt_prefix="on film"), tmp_path)
    assert set(catalog["caption"]) == {"on film. a thing"}


def test_captions_come_from_parquet_and_json_too(tmp_path: Path) -> None:
    table = pd.DataFrame({"filename": ["a.mp4", "b.mp4"], "prompt": ["a cat", None], "other": [1, 2]})
    table.to_parquet(tmp_path / "c.parquet")
    assert captions_from_file(tmp_path / "c.parquet", ("a.mp4", "b.mp4")) == {"a.mp4": "a cat", "b.mp4": ""}
    table.rename(columns={"prompt": "says"}).to_parquet(tmp_path / "d.parquet")
    with pytest.raises(StageError, match="name them file and caption"):
        captions_from_file(tmp_path / "d.parquet", ())
    assert caption_in(b'{"caption": " a\\n cat "}', "x.json") == "a cat"


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", b"{oops"), ("a.json", b"[1]"), ("a.json", b"[" * 100_000), ("a.txt", b"\xff\xfe"), ("a.json", b"{}")],
)
def test_a_broken_sidecar_is_a_reason_and_not_the_end(tmp_path: Path, name: str, content: bytes) -> None:
    video(tmp_path / "in/a.mp4", caption=None)
    video(tmp_path / "in/b.mp4", seed=1)
    (tmp_path / "in" / name).write_bytes(content)
    run(folder(tmp_path / "in", max_rejected_share=0.5), tmp_path)
    assert refused(tmp_path) == {"a.mp4": "bad_caption"}


def test_without_the_rule_clips_need_no_caption(tmp_path: Path) -> None:
    for number in range(2):
        video(tmp_path / f"in/{number}.mp4", seed=number, caption=None)
    catalog, _ = run(folder(tmp_path / "in", quality={**QUALITY, "caption": None}), tmp_path)
    assert set(catalog["caption"]) == {""}


# ---- only the new -------------------------------------------------------------------------------------------------


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


def test_reused_clips_equal_those_of_a_fresh_run(tmp_path: Path) -> None:
    for number in range(2):
        video(tmp_path / f"in/{number}.mp4", seed=number)
    run(folder(tmp_path / "in"), tmp_path / "one")
    run(folder(tmp_path / "in"), tmp_path / "one")
    run(folder(tmp_path / "in"), tmp_path / "two")
    one, two = (sorted((tmp_path / name / "clips").rglob("*.*")) for name in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_other_parameters_and_damage_in_the_kept_clips_decode_again(tmp_path: Path) -> None:
    for number in range(2):
        video(tmp_path / f"in/{number}.mp4", seed=number)
    run(folder(tmp_path / "in"), tmp_path)
    kept = next((tmp_path / ".work").rglob("*.mp4"))
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    _, metrics = run(folder(tmp_path / "in"), tmp_path)
    assert metrics["files_decoded"] == 1
    _, metrics = run(folder(tmp_path / "in", cutting={**CUTTING, "stride": 0.5}), tmp_path)
    assert metrics["files_decoded"] == 2
    motion = {**QUALITY, "motion": {"min_change": 0.1, "max_change": None}}
    _, metrics = run(folder(tmp_path / "in", cutting={**CUTTING, "stride": 0.5}, quality=motion), tmp_path)
    assert metrics["files_decoded"] == 0


def test_a_refusal_is_remembered_until_its_limit_moves(tmp_path: Path) -> None:
    video(tmp_path / "in/a.mp4")
    video(tmp_path / "in/long.mp4", num_frames=40, seed=1)
    tight = {**LIMITS, "max_frames": 30}
    _, metrics = run(folder(tmp_path / "in", limits=tight, max_rejected_share=0.5), tmp_path)
    assert metrics["rejected"] == {"too_long": 1} and metrics["files_decoded"] == 2
    _, metrics = run(folder(tmp_path / "in", limits=tight, max_rejected_share=0.5), tmp_path)
    assert metrics["rejected"] == {"too_long": 1} and metrics["files_decoded"] == 0
    _, metrics = run(folder(tmp_path / "in"), tmp_path)
    assert metrics["rejected"] == {} and metrics["files_decoded"] == 2


def test_kept_and_refused_clips_stand_side_by_side_in_the_decisions(tmp_path: Path) -> None:
    video(tmp_path / "in/a.mp4")
    video(tmp_path / "in/again.mkv.mp4", frame_rate=8.01)
    video(tmp_path / "in/b.mp4", seed=3)
    catalog, metrics = run(folder(tmp_path / "in", quality={**QUALITY, "duplicate": {"max_bits": 10}}), tmp_path)
    decisions = read_decisions(tmp_path / "clips")
    assert len(decisions) == 6 and decisions["kept"].sum() == len(catalog) == metrics["num_clips"]
    assert metrics["clips_refused_by"] == {"motion": 0, "sharpness": 0, "duplicate": 2, "caption": 0}
    gone = decisions[~decisions["kept"]]
    assert set(gone["duplicate_of"]) <= set(catalog["key"]) and set(gone["duplicate_decision"]) == {"refused"}
    assert {path.stem for path in (tmp_path / "clips/clips").iterdir()} == set(catalog["key"])
    with pytest.raises(StageError, match=r"quality: refused all 6 clips \(motion 6\)"):
        run(folder(tmp_path / "in", quality={**QUALITY, "motion": {"min_change": 200.0, "max_change": None}}), tmp_path)
