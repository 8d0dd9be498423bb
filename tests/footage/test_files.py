"""Files of a folder as they lie on people's disks: none vanishes without a word, none ends the stage."""

import errno
import io
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, features

from pipelines.data.catalog import read_rejected
from pipelines.data.limits import Limits, VideoError
from pipelines.data.stills import animation, read_picture
from pipelines.data.video import read_clip
from pipelines.footage import ingest
from pipelines.footage.files import find_media
from pipelines.stage import StageError
from tests.data.cards import WANTED, WITH_B, card, copied, number, numbers, write
from tests.footage.footage import CUTTING, folder, refused, run, video

KEY = "raw_video.source.folder.path"
CARDS = [card(k) for k in range(50)]


def test_files_of_endings_that_nobody_listed_are_looked_into(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("a.mts", "b.m2ts", "c.3g2", "d.f4v"):
        write(videos / name, CARDS)
    write(videos / "e.vob", CARDS, "mpeg2video", options={"b": "4M"})
    write(videos / "f.mp4", CARDS).rename(videos / "f.dashcam")
    write(videos / "g.mkv", CARDS).rename(videos / "g")
    write(videos / "h.gif", CARDS, "gif", "rgb8", {})
    found = find_media(videos, "videos", KEY)
    assert found.videos == ["a.mts", "b.m2ts", "c.3g2", "d.f4v", "e.vob", "f.dashcam", "g", "h.gif"]
    assert not found.passed and not found.pictures


@pytest.mark.costly
def test_what_is_passed_over_is_counted_by_its_ending_and_listed(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for k in range(4):
        video(videos / f"{k}.mp4", num_frames=16, seed=k)
    (videos / "a.xyz").write_bytes(b"nothing known" * 100)
    (videos / "b.XYZ").write_bytes(b"nothing known" * 200)
    (videos / "c.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    Image.new("RGB", (32, 32)).save(videos / "d.png")
    (videos / "e.mp4.part").write_bytes(b"\0" * 50)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (videos / name).write_bytes(b"x" * 10)
    (videos / "@eaDir").mkdir()
    video(videos / "@eaDir/thumb.mp4", num_frames=16, seed=9)
    catalog, metrics = run(folder(videos), tmp_path)
    assert set(catalog["source"]) == {f"{k}.mp4" for k in range(4)} and metrics["num_rejected"] == 0
    wanted = {"passed_over.xyz": 2, "passed_over.heic": 1, "passed_over.png": 1, "passed_over.part": 1}
    assert metrics["not_used"] == wanted
    rows = {row["file"]: row["detail"] for row in read_rejected(tmp_path / "clips").to_dict("records")}
    assert set(rows) == {"a.xyz", "b.XYZ", "c.heic", "d.png", "e.mp4.part"}
    assert "HEIC" in rows["c.heic"] and "is a picture" in rows["d.png"]


@pytest.mark.costly
def test_linked_folders_are_followed_once_and_links_to_nothing_are_a_row(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for k in range(3):
        video(videos / f"{k}.mp4", num_frames=16, seed=k)
    video(tmp_path / "disk/part/far.mp4", num_frames=16, seed=7)
    (videos / "part1").symlink_to(tmp_path / "disk/part")
    (videos / "loop").symlink_to(videos)
    (videos / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (videos / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(videos / "pipe.mp4")
    catalog, metrics = run(folder(videos), tmp_path)
    assert set(catalog["source"]) == {"0.mp4", "1.mp4", "2.mp4", "part1/far.mp4"}
    assert metrics["not_used"] == {"passed_over": 1, "passed_over.mp4": 2}
    rows = {row["file"]: row["detail"] for row in read_rejected(tmp_path / "clips").to_dict("records")}
    assert rows["gone.mp4"] == rows["gone"] == "is a link to nothing" and rows["pipe.mp4"] == "is no regular file"


@pytest.mark.parametrize(
    "name", ["a b.mp4", "ä–日本.mp4", "a\nb.mp4", "$a$$.mp4", "-a.mp4", "%s%d.mp4", "a:b?.mp4", "a'\".mp4"]
)
def test_names_that_nobody_expected_are_names(tmp_path: Path, name: str) -> None:
    videos = tmp_path / "videos"
    for k, one in enumerate((name, "b.mp4", "c.mp4", "d.mp4")):
        video(videos / one, num_frames=16, seed=k)
    catalog, _ = run(folder(videos), tmp_path)
    assert len(set(catalog["source"])) == 4


def test_a_name_that_is_no_text_is_a_name(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for k in range(4):
        video(videos / f"{k}.mp4", num_frames=16, seed=k)
    (videos / "3.mp4").rename(videos / os.fsdecode(b"\xff\xfe.mp4"))
    (videos / "3.txt").rename(videos / os.fsdecode(b"\xff\xfe.txt"))
    catalog, _ = run(folder(videos), tmp_path)
    assert len(set(catalog["source"])) == 4


@pytest.mark.costly
def test_a_file_that_goes_away_after_it_was_listed_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = tmp_path / "videos"
    for k in range(4):
        video(videos / f"{k}.mp4", num_frames=16, seed=k)
    video(videos / "gone.mp4", num_frames=16, seed=9)
    from pipelines.footage import sources

    listed = sources.find_media

    def and_then_gone(*given: Any) -> Any:
        found = listed(*given)
        (videos / "gone.mp4").unlink()
        return found

    monkeypatch.setattr(sources, "find_media", and_then_gone)
    run(folder(videos, max_rejected_share=0.5), tmp_path)
    assert set(refused(tmp_path)) == {"gone.mp4"} and refused(tmp_path)["gone.mp4"] in ("missing", "unreadable")


def test_a_folder_of_other_things_names_their_endings(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(b"x" * 100)
    with pytest.raises(StageError, match=r"holds 1 files, none of them a video \(1 \.xyz\)"):
        find_media(tmp_path, "videos", KEY)


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.gif", "a.apng"])
def test_animated_pictures_are_videos_and_still_ones_are_not(tmp_path: Path, name: str) -> None:
    pictures = [Image.fromarray(card(k)) for k in range(20)]
    more = {"lossless": True} if name.endswith("webp") else {"format": "PNG"} if name.endswith("png") else {}
    pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=40, **more)
    pictures[0].save(tmp_path / f"still{name[1:]}", **({"format": "PNG"} if name.endswith("png") else {}))
    found = find_media(tmp_path, "both", KEY)
    assert found.videos == [name] and found.pictures == [f"still{name[1:]}"]
    assert find_media(tmp_path, "images", KEY).pictures == sorted([name, f"still{name[1:]}"])
    assert list(find_media(tmp_path, "videos", KEY).passed) == [f"still{name[1:]}"]


def test_an_animated_webp_shows_its_frames_at_their_times(tmp_path: Path) -> None:
    pictures = [Image.fromarray(card(k)) for k in range(20)]
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=40, lossless=True)
    timed = list(animation(tmp_path / "a.webp", Limits()))
    assert [number(picture.pixels()) for _, picture in timed] == list(range(20))
    assert [round(seconds, 3) for seconds, _ in timed] == [round(0.04 * k, 3) for k in range(20)]


def test_animated_pictures_go_into_clips(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for seed in range(4):
        pictures = [Image.fromarray(card(k + 60 * seed)) for k in range(20)]
        pictures[0].save(
            videos / f"{seed}.webp", save_all=True, append_images=pictures[1:], duration=125, lossless=True
        )
        (videos / f"{seed}.txt").write_text("cards")
    catalog, _ = run(folder(videos), tmp_path)
    assert set(catalog["source"]) == {f"{seed}.webp" for seed in range(4)}


def profile(matrix: np.ndarray) -> bytes:
    """An ICC profile (version 2, gamma 2.2) whose colorants, XYZ under D50, are the columns."""

    def fixed(*values: float) -> bytes:
        return b"".join(round(value * 65536).to_bytes(4, "big", signed=True) for value in values)

    tags = {
        b"desc": b"desc\0\0\0\0\0\0\0\5wide\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249),
        **{name: b"XYZ \0\0\0\0" + fixed(*matrix[:, k]) for k, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))},
        **{name: b"curv\0\0\0\0\0\0\0\1\x02\x33" for name in (b"rTRC", b"gTRC", b"bTRC")},
    }
    table, body, at = b"", b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + (at + len(body)).to_bytes(4, "big") + len(value).to_bytes(4, "big")
        body += value
    head = bytes(4) + b"none\x02\x10\0\0mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    head = head.ljust(128, b"\0") + len(tags).to_bytes(4, "big")
    whole = head + table + body
    return len(whole).to_bytes(4, "big") + whole[4:]


P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])


TRANSPARENT = ("a.png", "a.webp", "a.tif")  # JPEG knows no transparency


@pytest.mark.parametrize(
    ("name", "mode"), [*((name, "RGB") for name in ("a.jpg", *TRANSPARENT)), *((name, "RGBA") for name in TRANSPARENT)]
)
def test_colours_of_a_picture_are_what_its_profile_means(tmp_path: Path, name: str, mode: str) -> None:
    told = profile(P3)
    color = (200, 90, 60)
    picture = Image.new("RGB", (32, 32), color).convert(mode)
    lossless = {"lossless": True} if name == "a.webp" else {"quality": 100} if name == "a.jpg" else {}
    picture.save(tmp_path / name, icc_profile=told, **lossless)
    linear = (np.array(color) / 255) ** 2.2
    d50_to_srgb = np.array(
        [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
    )
    meant = np.clip(d50_to_srgb @ P3 @ linear, 0, 1)
    srgb = np.where(meant <= 0.0031308, 12.92 * meant, 1.055 * meant ** (1 / 2.4) - 0.055) * 255
    found = read_picture(tmp_path / name, Limits()).pixels()[16, 16]
    assert np.abs(found - srgb).max() < 4 and np.abs(srgb - color).max() > 10


def test_a_broken_profile_is_no_profile(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), (200, 90, 60)).save(tmp_path / "a.png", icc_profile=b"no profile")
    assert read_picture(tmp_path / "a.png", Limits()).pixels()[0, 0].tolist() == [200, 90, 60]


def test_too_few_frames_per_second_name_the_remedy(tmp_path: Path) -> None:
    video(tmp_path / "videos/a.mp4", num_frames=60, frame_rate=15.0)
    clip = {"num_frames": 33, "height": 32, "width": 32, "frame_rate": 16.0, "crf": 10}
    with pytest.raises(StageError, match=r"it has 15 frames per second, clips 16; lower raw_video\.clip\.frame_rate"):
        run(folder(tmp_path / "videos", clip=clip), tmp_path)
    with pytest.raises(StageError, match=r"cutting\.hold"):
        run(folder(tmp_path / "videos", clip=clip), tmp_path)


@pytest.mark.costly
def test_a_screen_recording_is_held_and_the_seconds_are_counted(tmp_path: Path) -> None:
    def slow(place: int, packet: Any) -> bool:
        packet.pts = packet.dts = place * packet.duration * 25  # one frame per second
        return True

    for seed in range(4):
        cards = [card(k + 50 * seed) for k in range(6)]
        source = write(tmp_path / f"{seed}.mp4", cards, options={"crf": "4", "preset": "veryfast", "bf": "0"})
        (tmp_path / "videos").mkdir(exist_ok=True)
        copied(source, tmp_path / f"videos/{seed}.mp4", slow)
        (tmp_path / f"videos/{seed}.txt").write_text("a screen")
    with pytest.raises(StageError, match="frame_rate_too_low"):
        run(folder(tmp_path / "videos"), tmp_path)
    cutting = {**CUTTING, "hold": {"max_seconds": 2.0}}
    catalog, metrics = run(folder(tmp_path / "videos", cutting=cutting), tmp_path)
    assert metrics["gap_seconds"] == 0 and metrics["held_seconds"] >= 4 * 4
    assert metrics["source_seconds"] >= metrics["cut_seconds"] >= 4 * 4
    first = catalog[catalog["source"] == "0.mp4"].sort_values("start_seconds").iloc[0]
    assert len(read_clip(tmp_path / "clips" / str(first["file"]))) == 5


def test_interlaced_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for seed in range(4):
        options = {"crf": "4", "preset": "veryfast", "flags": "+ildct+ilme", "x264-params": "tff=1"}
        write(tmp_path / f"videos/{seed}.ts", [card(k + 50 * seed) for k in range(50)], options=options)
        (tmp_path / f"videos/{seed}.txt").write_text("cards")
    write(tmp_path / "videos/p.mp4", CARDS[::-1], options=WITH_B)
    (tmp_path / "videos/p.txt").write_text("cards")
    _, metrics = run(folder(tmp_path / "videos"), tmp_path)
    assert metrics["files_deinterlaced"] == 4 and metrics["files_tone_mapped"] == 0


def test_video_frames_with_exif_are_read_and_turned_as_it_says(tmp_path: Path) -> None:
    for orientation, turns in ((1, 0), (6, 1), (3, 2), (8, 3)):
        exif = Image.Exif()
        exif[0x0112], exif[0x010F] = orientation, "maker"
        path = tmp_path / f"{orientation}.avi"
        with av.open(str(path), "w") as file:
            stream = file.add_stream("mjpeg", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
            for place in range(5):
                held = io.BytesIO()
                Image.fromarray(card(place + 1)).save(held, "JPEG", quality=95, subsampling=0, exif=exif)
                packet = av.Packet(held.getvalue())
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, place, place, Fraction(1, 25)
                packet.is_keyframe = True
                file.mux(packet)
        shown = [np.rot90(frame, turns) for frame in read_clip(path)]
        assert [number(frame) for frame in shown] == [1, 2, 3, 4, 5], orientation


def test_a_cut_off_animation_is_truncated(tmp_path: Path) -> None:
    shown = [Image.fromarray(card(k)) for k in range(20)]
    shown[0].save(tmp_path / "a.webp", save_all=True, append_images=shown[1:], duration=40, lossless=True)
    path = tmp_path / "a.webp"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(VideoError) as told:
        list(animation(path, Limits()))
    assert told.value.reason == "truncated"


@pytest.mark.costly
def test_what_no_one_foresaw_of_a_file_is_a_row_and_a_full_disk_ends_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(4):
        video(tmp_path / f"in/{k}.mp4", num_frames=16, seed=k)
    cut = ingest.cut_file

    def odd(params: Any, clip: Any, found: Any, *rest: Any) -> Any:
        if found.name == "2.mp4":
            raise error
        return cut(params, clip, found, *rest)

    monkeypatch.setattr(ingest, "cut_file", odd)
    error: Exception = RuntimeError("two\nlines")
    run(folder(tmp_path / "in", max_rejected_share=0.5), tmp_path)
    (row,) = read_rejected(tmp_path / "clips").to_dict("records")
    assert row["reason"] == "unforeseen" and row["detail"].startswith("RuntimeError: two (test_files.py:")
    error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        run(folder(tmp_path / "in", max_rejected_share=0.5), tmp_path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
def test_an_avif_sequence_is_its_frames_and_not_its_cover(tmp_path: Path) -> None:
    shown = [Image.fromarray(card(k)) for k in range(50)]
    path = tmp_path / "a.avif"
    shown[0].save(path, save_all=True, append_images=shown[1:], duration=40, quality=95, subsampling="4:4:4")
    assert find_media(tmp_path, "videos", KEY).videos == ["a.avif"]
    assert numbers(path) == WANTED
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError) as told:
        read_picture(path, Limits())
    assert told.value.reason == "truncated"


@pytest.mark.parametrize("length", [0, 1, 7, 11, 12, 16, 20, 21, 40])
def test_a_picture_of_which_only_the_head_is_left_is_a_row(tmp_path: Path, length: int) -> None:
    for k in range(3):
        video(tmp_path / f"in/{k}.mp4", num_frames=16, seed=k)
    shown = [Image.fromarray(card(k)) for k in range(3)]
    for name in ("a.webp", "a.gif", "a.png", "a.avif", "a.jpg", "a.tif", "a.bmp"):
        more = {"save_all": True, "append_images": shown[1:]} if name not in ("a.jpg", "a.bmp") else {}
        shown[0].save(tmp_path / "in" / name, **more)
        content = (tmp_path / "in" / name).read_bytes()
        (tmp_path / "in" / name).write_bytes(content[:length])
    catalog, metrics = run(folder(tmp_path / "in", max_rejected_share=0.9), tmp_path)
    assert len(set(catalog["source"])) == 3
    assert metrics["num_rejected"] + sum(metrics["not_used"].values()) == 7
