"""`reel use`: what is recognised, what is written, and that nothing else changes."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from pipelines.data.video import write_mp4
from pipelines.document import edited
from pipelines.footage.fitting import fitted
from pipelines.footage.fitting_text import fitted_text
from pipelines.footage.layouts import recognise
from pipelines.footage.source_block import with_deps, with_source
from pipelines.footage.tars import counted
from pipelines.footage.use import main
from pipelines.representation.params import DiagnosticsParams, PseudoClassesParams
from pipelines.stage import StageError
from tests.footage.footage import frames, video
from tests.footage.test_sources import lerobot, step
from tests.footage.test_webdatasets import write_tar

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with this one's files, to be changed."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source() -> dict[str, Any]:
    held = yaml.safe_load(Path("params.yaml").read_text())["raw_video"]["source"]
    return {name: one for name, one in held.items() if one is not None}


def deps() -> list[str]:
    return yaml.safe_load(Path("dvc.yaml").read_text())["stages"]["raw_video"]["deps"]


def used(path: str) -> dict[str, Any]:
    """The block that is written for a path, with its own keys alone."""
    assert main([path]) == 0
    ((kind, block),) = source().items()
    return {"kind": kind, **{name: one for name, one in block.items() if name in OWN}}


FITTED = (
    r"(num_classes|fallback|min_entropy_ratio|max_near_empty_share|near_empty|neighbours|largest_share"
    r"|retrieval_excess|text_to_keyframes|keyframes_to_text|stability): "
)
"""Lines that are changed for few clips."""
OWN = ("path", "media", "captions", "urls", "max_samples", "camera", "action", "action_log", "frame_rate")


def long(path: Path, seed: int = 0, caption: str | None = None, rate: float = 8.0) -> None:
    video(path, num_frames=40, seed=seed, caption=caption, frame_rate=rate)


def test_a_folder_is_looked_at_and_written_with_every_other_line_kept(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        long(project / f"my videos/{number}.mp4", number, f"a thing {number}" if number else None)
    before = [(project / name).read_text().splitlines() for name in ("params.yaml", "dvc.yaml")]
    assert main(["my videos"]) == 0
    said = capsys.readouterr().out
    assert "A folder of videos, 2 of 3 with a text beside it." in said and "2 of 3 with a caption" in said
    assert "64x48 at 8 frames per second" in said and "of one core" in said and "KiB" in said
    assert "1 file has no caption" in said and "Next: reel check" in said and "About 6 clips" in said
    assert list(source()) == ["folder"] and source()["folder"]["path"] == "my videos" and deps()[0] == "my videos"
    after = [(project / name).read_text().splitlines() for name in ("params.yaml", "dvc.yaml")]
    kept = [line for line in before[0] if line not in after[0] and not re.search(FITTED, line)]
    assert kept and all(f"    # {line[4:]}" in after[0] for line in kept)
    assert before[1] == [line for line in after[1] if "my videos" not in line]


def test_using_another_source_takes_its_values_along_and_its_dependency_away(project: Path) -> None:
    long(project / "one/a.mp4", caption="a")
    long(project / "two/a.mp4", caption="a")
    assert used("one") == {"kind": "folder", "path": "one", "media": "videos", "captions": None}
    text = (project / "params.yaml").read_text().replace("max_rejected_share: 0.05  #", "max_rejected_share: 0.5  #", 1)
    (project / "params.yaml").write_text(text)
    assert used("two/")["path"] == "two" and source()["folder"]["max_rejected_share"] == 0.5
    assert "two" in deps() and "one" not in deps()


def test_only_looking_writes_nothing(project: Path) -> None:
    long(project / "in/a.mp4", caption="a")
    before = [(project / name).read_bytes() for name in ("params.yaml", "dvc.yaml")]
    assert main(["in", "--look"]) == 0
    assert before == [(project / name).read_bytes() for name in ("params.yaml", "dvc.yaml")]


def test_more_unusable_files_than_a_run_takes_are_said_beforehand(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abc":
        long(project / f"videos/{name}.mp4", caption=name)
    assert main(["videos", "--look"]) == 0
    assert "A run would stop" not in capsys.readouterr().out
    video(project / "videos/0.mp4", num_frames=2)
    (project / "videos/0.txt").write_text("short")
    assert main(["videos", "--look"]) == 0
    said = capsys.readouterr().out
    assert "Not usable: 1 too_short" in said
    assert "A run would stop at that: raw_video.source.folder.max_rejected_share allows 5%." in said


def test_footage_slower_than_the_clips_names_the_rate(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long(project / "in/a.mp4", caption="a", rate=5.0)
    main(["in"])
    assert "set raw_video.clip.frame_rate to 5 or less" in capsys.readouterr().out


def tables(root: Path) -> None:
    long(root / "hf/train/a.mp4", 1)
    long(root / "hf/test/b.mp4", 2)
    for part, name in (("train", "a"), ("test", "b")):
        (root / f"hf/{part}/metadata.csv").write_text(f"file_name,text\n{name}.mp4,words\n")
    long(root / "ltx/videos/a.mp4", 3)
    (root / "ltx/dataset.json").write_text('[{"caption": "words", "media_path": "videos/a.mp4"}]')
    long(root / "ft/videos/a.mp4", 4)
    (root / "ft/prompts.txt").write_text("words\n")
    (root / "ft/videos.txt").write_text("videos/a.mp4\n")
    long(root / "ms/clips/a.mp4", 5)
    line = json.dumps({"video_path": "/elsewhere/clips/a.mp4", "caption": "words"})
    (root / "ms/meta.jsonl").write_text(line + "\n")
    (root / "ms/set.toml").write_text('[general]\nbatch_size = 1\n[[datasets]]\nvideo_jsonl_file = "meta.jsonl"\n')
    (root / "ms/dir.toml").write_text('[[datasets]]\nvideo_directory = "clips"\ncaption_extension = ".txt"\n')
    pq.write_table(pa.table({"video": ["a.mp4", "gone.mp4"], "caption": ["words", "w"]}), root / "ltx/open.parquet")


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("hf", {"path": "hf", "captions": "**/metadata.csv"}),
        ("hf/train", {"path": "hf/train", "captions": "metadata.csv"}),
        ("ltx", {"path": "ltx", "captions": "dataset.json"}),
        ("ltx/dataset.json", {"path": "ltx", "captions": "dataset.json"}),
        ("ltx/open.parquet", {"path": "ltx", "captions": "open.parquet"}),
        ("ft", {"path": "ft", "captions": "prompts.txt"}),
        ("ms/set.toml", {"path": "ms", "captions": "meta.jsonl"}),
        ("ms/dir.toml", {"path": "ms/clips", "captions": None}),
    ],
)
def test_folders_and_tables_of_other_trainers_are_recognised(project: Path, path: str, wanted: dict[str, Any]) -> None:
    tables(project)
    assert used(path) == {"kind": "folder", "media": "videos", **wanted}
    if wanted["captions"] is None:
        assert source()["folder"]["quality"]["caption"] is None


def test_tars_lerobot_vpt_and_recordings_are_recognised(project: Path) -> None:
    for number in range(3):
        long(project / f"made/{number}.mp4", number, "words")
        (project / "shards").mkdir(exist_ok=True)
        with tarfile.open(project / f"shards/t-{number:03d}.tar", "w") as archive:
            for end in ("mp4", "txt"):
                archive.add(project / f"made/{number}.{end}", f"{number}.{end}")
    assert used("shards") == {"kind": "tars", "urls": ["shards/t-{000..002}.tar"], "max_samples": None}
    assert deps()[0] == "shards"
    assert used("shards/t-001.tar")["urls"] == ["shards/t-001.tar"] and "shards" not in deps()
    lerobot(project / "robot", lengths=(40, 40), rate=8)
    camera = "observation.images.front"
    assert used("robot") == {"kind": "lerobot", "path": "robot", "camera": camera, "action": "action"}
    (project / "game").mkdir()
    write_mp4(project / "game/run.mp4", frames(60), 20.0)
    (project / "game/run.jsonl").write_text("\n".join(step("w") for _ in range(60)))
    assert used("game") == {"kind": "vpt", "path": "game", "captions": None}
    assert source()["vpt"]["quality"]["caption"] is None
    (project / "rec/one").mkdir(parents=True)
    for number, pixels in enumerate(frames(80)):
        Image.fromarray(pixels).save(project / f"rec/one/frame_{number:04d}.png")
    (project / "rec/one/input.csv").write_text("key,time,frame\nW,0.0,0\n")
    wanted = {"kind": "recordings", "path": "rec", "frame_rate": 30.0, "action_log": "input.csv", "captions": None}
    assert used("rec") == wanted


def test_what_a_stage_makes_of_nothing_of_the_clips_may_be_their_source(project: Path) -> None:
    graph = project / "dvc.yaml"
    graph.write_text(graph.read_text() + "  download:\n    cmd: get\n    outs: [data/films]\n")
    long(project / "data/films/a.mp4", caption="a")
    assert used("data/films")["path"] == "data/films"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("lerobot/pusht", "hf download --repo-type dataset lerobot/pusht --local-dir pusht"),
        ("vidoes", "did you mean videos"),
        ("empty", "holds no video, picture or tar that is known here .nothing"),
        ("texts", r"known here \(1 \.doc\)"),
        ("inside", r"the videos stand inside parquet files \(column video\)"),
        ("videos/a.mp4", "is one video; name the folder"),
        ("bad.toml", "is no toml"),
        ("none.toml", r"has no \[\[datasets\]\]"),
        ("alone.csv", "no video lies beside it"),
        ("broken", "nothing in it can be used, so nothing was written"),
        (".", "the project lies in it"),
        ("..", "the project lies in it"),
        ("data/clips", "stage raw_video makes data/clips from the clips"),
        ("data/clips/clips", "stage raw_video makes data/clips from"),
        ("data", "stage raw_video makes data/clips from"),
        ("checkpoints/autoencoder", "stage autoencoder makes checkpoints/autoencoder from"),
        ("plots", "from the clips; name a folder of footage"),
        (".dvc/cache", "tools keep copies"),
    ],
)
def test_what_cannot_be_used_is_told_with_a_remedy_and_changes_nothing(
    project: Path, capsys: pytest.CaptureFixture[str], path: str, words: str
) -> None:
    long(project / "videos/a.mp4", caption="a")
    for name in ("empty", "texts", "inside", "broken", "lone"):
        (project / name).mkdir()
    for name in ("data/clips/clips", "checkpoints/autoencoder", "plots", ".dvc/cache"):
        long(project / name / "a.mp4")
    (project / "texts/a.doc").touch()
    (project / "broken/a.mp4").write_text("hello")
    embedded = pa.array([{"bytes": b"x", "path": "a.mp4"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"video": embedded}), project / "inside/train-0.parquet")
    (project / "bad.toml").write_text("[[")
    (project / "none.toml").write_text("a = 1\n")
    (project / "alone.csv").write_text("file,caption\na.mp4,x\n")
    if path == "alone.csv":
        shutil.move(project / "alone.csv", project / "lone/alone.csv")
        path = "lone/alone.csv"
    before = (project / "params.yaml").read_bytes()
    assert main([path]) == 2
    said = capsys.readouterr().err
    assert said.startswith("use: ") and len(said.strip().splitlines()) <= 2

    assert re.search(words, said), said
    assert (project / "params.yaml").read_bytes() == before


def test_params_in_braces_and_deps_in_lines_are_changed_too() -> None:
    params = "raw_video:\n  source: {rendered: {seed: 0}}  # mine\n  clip: 1\nother: 2\n"
    made = with_source(params, "folder", {"path": "a: b"})
    assert yaml.safe_load(made) == {"raw_video": {"source": {"folder": {"path": "a: b"}}, "clip": 1}, "other": 2}
    assert "  # source: {rendered: {seed: 0}}  # mine" in made
    graph = "stages:\n  raw_video:\n    cmd: x\n    deps:\n      - old\n      - code  # kept\n    outs: [y]\n"
    made = with_deps(graph, ["new"], ["old"])
    assert yaml.safe_load(made)["stages"]["raw_video"]["deps"] == ["new", "code"] and "code  # kept" in made
    with pytest.raises(StageError, match=r"has no raw_video.source"):
        with_source("a: 1\n", "folder", {})
    with pytest.raises(StageError, match=r"params.yaml:2: not readable as YAML"):
        with_source("a: 1\n\tb: 2\n", "folder", {})
    made = with_deps("stages:\n  raw_video:\n    cmd: x\n    outs: [y]\n", ["new one"], [])
    assert yaml.safe_load(made)["stages"]["raw_video"] == {"cmd": "x", "deps": ["new one"], "outs": ["y"]}
    with pytest.raises(StageError, match=r"no stage raw_video"):
        with_deps("stages: {}\n", ["new"], [])


def test_classes_and_gates_are_written_to_fit_so_few_clips_and_what_fits_stays(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        long(project / f"mine/{number}.mp4", number, f"words {number}")
    before = (project / "params.yaml").read_text()
    assert main(["mine"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"About 6 clips, by the lengths that 3 files state\.", said)
    assert re.search(r"All of them take about [\d.]+ s of one core and [\d.e-]+ MiB\.", said)
    assert "params.yaml: pseudo_classes.num_classes is now 2 (about 6 clips, 20 per class)." in said
    values = yaml.safe_load(Path("params.yaml").read_text())
    assert values["pseudo_classes"]["num_classes"] == 2 and values["pseudo_classes"]["fallback"] is None
    assert values["diagnostics"]["neighbours"] == [1] and values["diagnostics"]["near_empty"] == 1
    assert values["diagnostics"]["gates"]["largest_share"] == {"warn": 0.62, "fail": 0.87}
    assert values["diagnostics"]["gates"]["stability"] == {"warn": 0.3, "fail": -1.0}
    assert "# at most; samples in the fullest class" in Path("params.yaml").read_text()
    assert values["rectified_flow"] == yaml.safe_load(before)["rectified_flow"]
    assert main(["mine"]) == 0 and "is now 2" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("clips", "wanted"),
    [
        (1200, {}),
        (
            400,
            {
                "pseudo_classes.num_classes": 20,
                "diagnostics.neighbours": [1, 5],
                "pseudo_classes.fallback.num_classes": None,
            },
        ),
        (100, {"pseudo_classes.num_classes": 5, "pseudo_classes.fallback.num_classes": 2}),
        (3, {"pseudo_classes.num_classes": 2, "pseudo_classes.fallback": "null", "diagnostics.near_empty": 1}),
    ],
)
def test_what_fits_follows_from_the_number_of_clips(clips: int, wanted: dict[str, Any]) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    found = {".".join(change.key): change.value for change in fitted(values, clips, None)}
    for key, value in wanted.items():
        assert (key not in found) if value is None else found[key] == (None if value == "null" else value)
    assert bool(found) == bool(wanted)
    text = (ROOT / "params.yaml").read_text()
    for change in fitted(values, clips, "there are no captions"):
        text = edited(text, change.nested)
    written = yaml.safe_load(text)
    assert not list(fitted(written, clips, "there are no captions"))  # what was fitted fits
    assert written["pseudo_classes"]["embedding"]["text"] is None
    assert written["pseudo_classes"]["embedding"]["motion"] == values["pseudo_classes"]["embedding"]["motion"]
    assert PseudoClassesParams.model_validate(written["pseudo_classes"])
    assert DiagnosticsParams.model_validate(written["diagnostics"])


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frames(1, seed=seed)[0]).save(buffer, "png")
    return buffer.getvalue()


def test_tars_of_pictures_become_the_source_that_reads_them_with_a_form_of_one_frame(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "pics").mkdir()
    words = {f"{n}.json": json.dumps({"caption": f"words {n}", "status": "success"}).encode() for n in range(3)}
    members = {f"{n}.png": picture(n) for n in range(3)} | words | {f"{n}.txt": b"" for n in range(3)}
    failed = {"3.txt": b"", "3.json": json.dumps({"status": "failed_to_download", "caption": "w"}).encode()}
    write_tar(project / "pics/00000.tar", dict(sorted((members | failed).items())))
    (project / "pics/00000_stats.json").write_text("{}")
    assert used("pics")["kind"] == "webdataset"
    said = capsys.readouterr().out
    block = source()["webdataset"]
    assert (block["media"], block["captions"], block["caption"]) == ("png", "json", None)
    assert block["cutting"]["buckets"] == {"fold": 8, "sizes": [[1, 64, 64]]}
    assert "3 of 3 with a caption" in said and "Passed over: 1 not_downloaded" in said
    long(project / "a.mp4", caption="words")
    write_tar(project / "mixed.tar", {"a.mp4": (project / "a.mp4").read_bytes(), "a.png": picture(0), "a.txt": b"w"})
    assert used("mixed.tar")["kind"] == "tars"
    (project / "packed.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(50))
    assert main(["packed.tar.zst"]) == 2 and "unpack it: `zstd -d`" in capsys.readouterr().err


def test_folders_of_pictures_get_a_form_of_one_frame_too(project: Path) -> None:
    (project / "pics").mkdir()
    for number in range(2):
        (project / f"pics/{number}.png").write_bytes(picture(number))
        (project / f"pics/{number}.txt").write_text(f"words {number}")
    assert used("pics") == {"kind": "folder", "path": "pics", "media": "images", "captions": None}
    assert source()["folder"]["cutting"]["buckets"] == {"fold": 8, "sizes": [[1, 64, 64]]}


def test_files_of_trainers_lead_to_the_one_data_set_of_videos_and_say_what_is_left_out(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long(project / "vids/a.mp4", caption="words")
    (project / "img").mkdir()
    sets = '[[datasets]]\nimage_directory = "img"\n[[datasets]]\nvideo_directory = "vids"\n'
    (project / "set.toml").write_text('[general]\ncaption_extension = ".txt"\n' + sets)
    assert used("set.toml") == {"kind": "folder", "path": "vids", "media": "videos", "captions": None}
    assert "Left out, as pictures: img." in capsys.readouterr().out
    (project / "set.toml").write_text('[general]\ncaption_extension = ".tags"\n' + sets)
    assert main(["set.toml"]) == 2 and "captions are read from .txt, .caption, .json" in capsys.readouterr().err
    (project / "training.json").write_text('{"datasets": [{"data_root": "vids", "dataset_type": "video"}]}')
    assert used("training.json")["path"] == "vids"
    (project / "set.toml").write_text(sets + '[[datasets]]\nvideo_directory = "more"\n')
    assert main(["set.toml"]) == 2 and "holds 3 data sets; use one of them: img, vids, more" in capsys.readouterr().err


def test_a_table_that_captions_nothing_is_named_with_its_mistake(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long(project / "in/a.mp4")
    (project / "in/m.jsonl").write_text('{"video": "a.mp4", "caption": ["one", "two"]}\n')
    assert main(["in"]) == 0
    assert "Not taken for captions: m.jsonl:1: 2 captions for one video." in capsys.readouterr().out


def test_recordings_of_vpt_are_known_by_any_log_and_lerobot_by_a_camera_of_colours(project: Path) -> None:
    for number in range(2):
        (project / "game").mkdir(exist_ok=True)
        write_mp4(project / f"game/{number}.mp4", frames(60, seed=number), 20.0)
    (project / "game/1.jsonl").write_text("\n" + "\n".join(step("w") for _ in range(60)))
    assert used("game")["kind"] == "vpt"
    lerobot(project / "robot", lengths=(40, 40), rate=8)
    info = json.loads((project / "robot/meta/info.json").read_text())
    depth = {"dtype": "video", "shape": [48, 64, 3], "info": {"video.is_depth_map": True}}
    info["features"] = {"observation.images.depth": depth, **info["features"]}
    (project / "robot/meta/info.json").write_text(json.dumps(info))
    assert used("robot")["camera"] == "observation.images.front"


def test_captions_beside_a_folder_of_pictures_are_found_from_the_folder_and_from_the_table(project: Path) -> None:
    for name in ("a.png", "b.png"):
        (project / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (80, 72), "red").save(project / "pictures" / name)
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(
        text.replace("num_frames: 17", "num_frames: 1", 1)
    )  # pictures are clips of one frame
    Path("captions.txt").write_text("a.png\ta red wall\npictures/b.png\tanother\n")
    Path("plots").mkdir()
    Image.new("RGB", (80, 72), "red").save(project / "plots/own.png")
    wanted = {"kind": "folder", "path": "pictures", "media": "images", "captions": "captions.txt"}
    for named in ("pictures", "captions.txt"):
        assert used(named) == wanted
        assert set(deps()) == {"pictures", "captions.txt"}


@pytest.mark.parametrize("deps", ["deps: [old]", "deps: [\n      old]", "deps:\n      - old", "deps:\n    - old"])
def test_a_source_that_dvc_cannot_watch_leaves_no_empty_deps(deps: str) -> None:
    made = with_deps(f"stages:\n  raw_video:\n    cmd: x\n    {deps}\n    outs: [y]  # kept\n", [], ["old"])
    assert made == "stages:\n  raw_video:\n    cmd: x\n    outs: [y]  # kept\n"


def test_tars_that_count_are_named_by_their_range() -> None:
    assert counted(["a/t-08.tar", "a/t-09.tar", "a/t-10.tar"]) == ["a/t-{08..10}.tar"]
    for names in (["t-1.tar", "t-3.tar"], ["t-9.tar", "t-10.tar"], ["a.tar", "b.tar"], ["t-1.tar"]):
        assert counted(names) == names


def test_a_tar_by_url_is_taken_as_it_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "x-00.tar", {"a.mp4": b"", "a.txt": b"words"})
    layout = recognise(f"file://{tmp_path}/x-{{00..10}}.tar")
    assert layout.block == "tars" and layout.values["urls"] == [f"file://{tmp_path}/x-{{00..10}}.tar"]
    assert "DVC does not look at addresses" in layout.notes[0]
    write_tar(tmp_path / "y.tar", {"a.png": picture(0), "a.txt": b"words"})
    assert recognise(f"file://{tmp_path}/y.tar").values["captions"] == "txt"


@pytest.mark.parametrize(
    ("words", "is_all", "wanted"), [(22, True, 24), (23, True, 25), (23, False, 65), (500, True, 65)]
)
def test_long_captions_get_places_in_every_denoiser(words: int, is_all: bool, wanted: int) -> None:
    """24 places hold 22 words, the end and the class; the text encoder cuts after 64 tokens."""
    text = (ROOT / "params.yaml").read_text()
    captions = {"A cat.", " ".join(["it's"] + ["word"] * (words - 3))}
    for change in fitted_text(yaml.safe_load(text), captions, is_all):
        text = edited(text, change.nested)
    written = yaml.safe_load(text)
    lengths = {
        sizes["text_length"]
        for section in written.values()
        for name, sizes in section.items()
        if name in ("denoiser", "refiner") and "text_length" in sizes
    }
    assert lengths == {wanted}
    assert not list(fitted_text(written, captions, is_all))
